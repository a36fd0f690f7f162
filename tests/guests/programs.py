"""Owns programs of the distribution's packages in a tiny guest: the files, and the libraries that they load."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.guests import cpio, tools
from tests.guests.architectures import Architecture
from tests.guests.tiny_linux import only

READELF = "x86_64-linux-gnu-readelf"  # which reads what is for any processor
_THERE = {"bin", "sbin", "usr/bin", "usr/sbin"}
"""Folders that the tiny guest has; all but the first are links to that."""
_NEEDED = re.compile(r"\(NEEDED\).*\[(.*)\]")


def members(root: Path, architecture: Architecture, programs: Iterable[str]) -> Iterator[cpio.Member]:
    """What the initramfs of the tiny guest is to have beside what it has, of packages that are unpacked in `root`.

    :param programs: paths of files there, which are the same in the guest.
    """
    paths = {name: root / name for name in programs}
    libraries = f"lib/{architecture.libraries}"
    above = {str(folder) for name in paths for folder in Path(name).parents[:-1]} - _THERE
    for name in sorted({libraries, "lib", "lib64", *above}):
        yield cpio.directory(name)
    folders = [path for path in root.glob(f"**/{architecture.libraries}") if path.is_dir()]
    loader = only(path for path in root.glob(f"**/{Path(architecture.loader).name}") if not path.is_symlink())
    yield cpio.file(architecture.loader, loader.read_bytes(), mode=0o755)
    for name, path in paths.items():
        yield cpio.file(name, path.read_bytes(), mode=0o755)
    for name, path in _libraries([*paths.values()], folders).items():
        yield cpio.file(f"{libraries}/{name}", path.read_bytes(), mode=0o755)


def _libraries(programs: list[Path], folders: list[Path]) -> dict[str, Path]:
    """What the programs load: the name that they load it by, and the file."""
    found: dict[str, Path] = {}
    new = list(programs)
    while new:
        needed = set(_NEEDED.findall(tools.run([READELF, "--dynamic", "--wide", *new]))) - set(found)
        places = {name: folder / name for name in sorted(needed) for folder in folders if (folder / name).exists()}
        found |= places
        new = list(places.values())
    return found
