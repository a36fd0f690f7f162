"""``readonly-vm cache``: the templates that are kept between runs, listed, removed, and shared with other computers."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pytest_readonly_vm.cli import cache_travel
from pytest_readonly_vm.cli.kept import NAME_SHOWN, ago, counted, mebibytes, named, print_table, without_controls
from pytest_readonly_vm.cli.settings import given_settings
from pytest_readonly_vm.config.setting import Part
from pytest_readonly_vm.config.settings import VmConfig, settings_in
from pytest_readonly_vm.config.values import path
from pytest_readonly_vm.start.cache import Entry, TemplateCache, default_folder

HELP = "list or remove the templates that are kept between runs, or share them with other computers"


def declare(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    folder = argparse.ArgumentParser(add_help=False)
    folder.add_argument(
        "--folder", type=path, metavar="DIR", help="where they are (default: $PYTEST_VM_CACHE, or in the user's cache)"
    )
    actions.add_parser("list", parents=[folder], help="show them, the last used first")
    clear = actions.add_parser("clear", parents=[folder], help="remove all, or those that are named")
    clear.add_argument("keys", nargs="*", metavar="KEY", help="a key as the list shows it, or the beginning of one")
    cache_travel.declare(actions, folder)


def run(arguments: argparse.Namespace) -> int:
    if arguments.action == "prune":
        return cache_travel.prune(arguments)
    config = VmConfig().with_settings(given_settings(argparse.Namespace(), settings_in(Part.SHELL)))
    folder = arguments.folder or config.cache or default_folder()
    if arguments.action == "pull":
        return cache_travel.pull(arguments, TemplateCache(folder, limit=config.cache_size), config)
    # Looking makes no folder.
    cache = TemplateCache(folder, limit=0) if folder.exists() else None
    entries = cache.entries() if cache else []
    if arguments.action == "list":
        return _list(entries, folder)
    if arguments.action == "push":
        return cache_travel.push(arguments, entries)
    chosen = named(arguments.keys, entries, lambda entry: entry.key, what="template key") if arguments.keys else entries
    freed = [entry for entry in chosen if cache and cache.remove(entry.key)]
    if cache and not arguments.keys:
        cache.clear_halves()
    print(f"removed {counted(freed, 'template')} from {folder}, freed {mebibytes(freed)}")
    if len(freed) < len(chosen):
        print(
            f"readonly-vm: {counted(chosen, 'template')} should have gone from {folder}; may you write there?",
            file=sys.stderr,
        )
        return 1
    return 0


def _list(entries: Sequence[Entry], folder: Path) -> int:
    rows = [("KEY", "SIZE", "LAST USED", "IMAGE", "WHAT")]
    for entry in entries:
        described = {name: without_controls(value) for name, value in entry.description.items()}
        image = described.pop("image", "")
        what = ", ".join(f"{name} {value}" for name, value in described.items())
        rows.append((entry.key[:NAME_SHOWN], mebibytes([entry]), ago(time.time() - entry.last_used), image, what))
    print_table(rows)
    print(f"{counted(entries, 'template')} in {folder}, {mebibytes(entries)}")
    return 0
