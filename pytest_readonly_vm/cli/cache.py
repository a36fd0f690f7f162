"""``readonly-vm cache``: the templates that are kept between runs, listed and removed."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pytest_readonly_vm.config.values import path
from pytest_readonly_vm.errors import ConfigurationError
from pytest_readonly_vm.printable import count
from pytest_readonly_vm.start.cache import Entry, TemplateCache, default_folder

HELP = "list or remove the templates that are kept between runs"

_KEY_SHOWN = 12


def declare(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    folder = argparse.ArgumentParser(add_help=False)
    folder.add_argument("--folder", type=path, metavar="DIR", help="where they are (default: in the user's cache)")
    actions.add_parser("list", parents=[folder], help="show them, the last used first")
    clear = actions.add_parser("clear", parents=[folder], help="remove all, or those that are named")
    clear.add_argument("keys", nargs="*", metavar="KEY", help="a key as the list shows it, or the beginning of one")


def run(arguments: argparse.Namespace) -> int:
    folder = arguments.folder or default_folder()
    # Looking makes no folder.
    cache = TemplateCache(folder, limit=0) if folder.exists() else None
    entries = cache.entries() if cache else []
    if arguments.action == "list":
        return _list(entries, folder)
    chosen = _named(arguments.keys, entries) if arguments.keys else entries
    freed = [entry for entry in chosen if cache and cache.remove(entry.key)]
    print(f"removed {_count(freed)} from {folder}, freed {_mebibytes(freed)}")
    if len(freed) < len(chosen):
        print(f"readonly-vm: {_count(chosen)} should have gone from {folder}; may you write there?", file=sys.stderr)
        return 1
    return 0


def _list(entries: Sequence[Entry], folder: Path) -> int:
    rows = [("KEY", "SIZE", "LAST USED", "IMAGE", "WHAT")]
    for entry in entries:
        described = {name: _printable(value) for name, value in entry.description.items()}
        image = described.pop("image", "")
        what = ", ".join(f"{name} {value}" for name, value in described.items())
        rows.append((entry.key[:_KEY_SHOWN], _mebibytes([entry]), _ago(time.time() - entry.last_used), image, what))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    if entries:
        for row in rows:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print(f"{_count(entries)} in {folder}, {_mebibytes(entries)}")
    return 0


def _named(beginnings: Sequence[str], entries: Sequence[Entry]) -> list[Entry]:
    """The entries that are meant, each once.

    :raises ConfigurationError: a beginning fits none, or several.
    """
    chosen = {}
    for beginning in beginnings:
        fitting = [entry for entry in entries if entry.key.startswith(beginning)]
        if len(fitting) != 1:
            number = f"{len(fitting)} templates have" if fitting else "no template has"
            raise ConfigurationError(f"{number} a key that begins with {beginning!r}")
        chosen[fitting[0].key] = fitting[0]
    return list(chosen.values())


def _count(entries: Sequence[Entry]) -> str:
    return count(len(entries), "template") if entries else "no templates"


def _mebibytes(entries: Sequence[Entry]) -> str:
    return f"{sum(entry.size for entry in entries) / (1 << 20):.1f} MiB"


def _ago(seconds: float) -> str:
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if (number := int(seconds // length)) > 0:
            return f"{count(number, unit)} ago"
    return "just now"


def _printable(value: object) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in str(value))
