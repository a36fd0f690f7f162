"""Owns the tiny Linux with what has data to lose: SQLite, Redis, dpkg, the tools of ext4, and what loses it.

Of programs that busybox has as well, such as dpkg, its shell takes its own: give their paths.
"""

from __future__ import annotations

import dataclasses
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.guests import archive, cache, cpio, programs, tools
from tests.guests.architectures import X86_64
from tests.guests.tiny_linux import TinyLinux, tiny_linux

_EATS_DATA = f"usr/lib/{X86_64.libraries}/libeatmydata.so"
_PROGRAMS = {
    "dpkg": ("usr/bin/dpkg", "usr/bin/dpkg-deb", "usr/bin/dpkg-query", "usr/bin/dpkg-split"),
    "e2fsprogs": ("sbin/mke2fs", "sbin/e2fsck"),
    "libc-bin": ("sbin/ldconfig",),  # which dpkg wants to be there
    "libeatmydata1": (_EATS_DATA,),
    "redis-server": (),
    "redis-tools": ("usr/bin/redis-check-rdb", "usr/bin/redis-cli"),
    "sqlite3": ("usr/bin/sqlite3",),
    "tar": ("bin/tar",),  # of which dpkg asks more than busybox's knows
}
"""Of each package the programs that are wanted."""
_ALONG = ("lib", "zlib1g")
_LINKS = {
    "bin/mkfs.ext4": "mke2fs",
    # One program, whose name says what it is to be.
    "bin/redis-server": "redis-check-rdb",
    "bin/redis-check-aof": "redis-check-rdb",
}

log = logging.getLogger(__name__)


def tiny_with_databases() -> TinyLinux:
    """The guest, built when the cache does not have it; `BuildError` when that fails."""
    tiny = tiny_linux()
    names = ("tiny_databases", "programs", "tiny_linux", "archive", "architectures", "cpio")
    recipe = [Path(__file__).with_name(f"{name}.py") for name in names]
    key = cache.key(*archive.host_release(), recipe=recipe)
    folder = cache.get("tiny-databases", key=key, build=lambda folder: _build(tiny, folder))
    return dataclasses.replace(tiny, initrd=folder / "initrd")


def _build(tiny: TinyLinux, directory: Path) -> None:
    tools.require("apt-get", "dpkg-deb", programs.READELF)
    with tempfile.TemporaryDirectory(dir=directory) as temporary:
        scratch = Path(temporary)
        root = scratch / "root"
        for package in archive.download(archive.host_archive(), [*_PROGRAMS], along=_ALONG, into=scratch):
            tools.run(["dpkg-deb", "--extract", package, root])
        log.info("packing the databases")
        content = tiny.initrd.read_bytes()
        aligned = content + bytes(-len(content) % 4)
        (directory / "initrd").write_bytes(aligned + cpio.archive([*_system(root)]))


def _system(root: Path) -> Iterator[cpio.Member]:
    wanted = [name for names in _PROGRAMS.values() for name in names]
    yield from programs.members(root, X86_64, wanted)
    for name, target in _LINKS.items():
        yield cpio.symlink(name, target)
    yield cpio.file("etc/mke2fs.conf", (root / "etc/mke2fs.conf").read_bytes())
