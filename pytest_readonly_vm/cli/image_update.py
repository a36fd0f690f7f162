"""Owns ``readonly-vm image update``: whether what a list names has moved, and the list with what there is now."""

import sys
from collections.abc import Sequence
from pathlib import Path

from pytest_readonly_vm.cli.image_entry import chosen, image_of, open_editor, say, shown
from pytest_readonly_vm.config.digest import Digest
from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.errors import DownloadError, VmError
from pytest_readonly_vm.sources.image_list import ImageList, ListedImage
from pytest_readonly_vm.sources.image_sources import arch_of, look


def update_list(images: ImageList, names: Sequence[str], config: VmConfig, *, is_agreed: bool) -> int:
    """Show what has moved, and write it if that is agreed; the exit status.

    :raises ConfigurationError: there is no such name, or the list cannot be written.
    """
    moved, failed = {}, False
    for entry in chosen(images, names):
        try:
            found = _moved(entry, images, config)
        except VmError as error:  # of the others is told all the same
            failed = True
            say(f"{entry.name}: {error}")
            continue
        if isinstance(found, str):
            print(f"{entry.name}: {found}")
        elif found:
            moved[entry.name] = found
            print(f"{entry.name}: {shown({'digest': entry.digest, 'size': entry.size})}")
            print(f"{' ' * len(entry.name)}  is now {shown(found)}")
    if not moved:
        print(f"{'' if failed else 'nothing has moved; '}{images.path} stays as it is")
        return 1 if failed else 0
    if not (is_agreed or _is_agreed(images.path)):
        print(f"{images.path} stays as it is")
        return 1
    editor = open_editor(images.path)
    for name, found in moved.items():
        editor.set(name, found)
    editor.save()
    print(f"{images.path} is written")
    return 1 if failed else 0


def _moved(entry: ListedImage, images: ImageList, config: VmConfig) -> dict[str, object] | str:
    """What an entry is to have now; nothing if it has that, or a sentence on why there is nothing.

    A digest never goes without another in its place: a list without it would take any image.

    :raises VmError: it cannot be had, or has moved to nobody knows what.
    """
    wanted = images.applied(config, entry.name)
    image = image_of(entry.url, images.path)
    if isinstance(image, Path):
        return {}
    assert not isinstance(image.place, str)
    known = Digest.parse(entry.digest) if entry.digest is not None else None
    if (own := image.place.digest) is not None:
        return {"digest": str(own), "size": None} if known not in (None, own) else "its URL says itself which it is"
    found = look(image, arch=arch_of(image, wanted), algorithm=known.algorithm if known else None)
    if found.digest is not None:
        return {"digest": str(found.digest), "size": found.size} if found.digest != known else {}
    unknown = "nobody says which digest it has by now"
    if entry.size is not None and found.size not in (None, entry.size):
        raise DownloadError(f"{unknown}, and its size is {found.size} bytes instead of {entry.size}")
    return unknown


def _is_agreed(where: Path) -> bool:
    if not sys.stdin.isatty():
        return False
    print(f"write that into {where}? [y/N] ", end="", flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
