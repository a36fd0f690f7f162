"""Owns the part of ``readonly-vm image`` that shows and empties the store, as ``readonly-vm cache`` does its own."""

import sys
import time
from collections.abc import Sequence

from pytest_readonly_vm.cli.kept import NAME_SHOWN, ago, counted, mebibytes, named, print_table, without_controls
from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.sources.store import ImageStore, StoredImage, default_folder


def list_store(config: VmConfig) -> int:
    """Print what it has, the last used first."""
    _, entries = _opened(config)
    rows = [("DIGEST", "SIZE", "LAST USED", "NAME", "MADE OF")]
    for entry in entries:
        name, source = without_controls(entry.path.name), without_controls(entry.source)
        rows.append((entry.digest[:NAME_SHOWN], mebibytes([entry]), ago(time.time() - entry.last_used), name, source))
    print_table(rows)
    print(f"{counted(entries, 'image')} in {config.image_store or default_folder()}, {mebibytes(entries)}")
    return 0


def clear_store(config: VmConfig, beginnings: Sequence[str]) -> int:
    """Remove all of its images, or those that are named, but for those in use.

    :raises ConfigurationError: the beginning of a digest fits none, or several.
    """
    store, entries = _opened(config)
    chosen = named(beginnings, entries, lambda entry: entry.digest, what="image digest") if beginnings else entries
    freed = [entry for entry in chosen if store and store.remove(entry.digest)]
    print(f"removed {counted(freed, 'image')} from {config.image_store or default_folder()}, freed {mebibytes(freed)}")
    if left := [entry for entry in chosen if entry not in freed]:
        print(f"readonly-vm: {counted(left, 'image')} stayed: in use, or not yours to remove", file=sys.stderr)
        return 1
    return 0


def _opened(config: VmConfig) -> tuple[ImageStore | None, list[StoredImage]]:
    folder = config.image_store or default_folder()
    if not folder.exists():  # looking makes no folder
        return None, []
    store = ImageStore(folder, limit=config.image_store_size)
    return store, sorted(store.entries(), key=lambda entry: -entry.last_used)
