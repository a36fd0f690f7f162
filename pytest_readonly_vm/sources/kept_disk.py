"""Owns what becomes of a disk that somebody else has made on its way to a folder of ours: looked at, fit to clone.

QEMU cannot freeze a guest whose base is a VMDK, VDI, VHD or VHDX: it would boot for each test. So these become qcow2.
"""

import contextlib
import errno
import json
import os
import re
from pathlib import Path, PurePath

from pytest_readonly_vm.errors import ImageError
from pytest_readonly_vm.host.tool import run_tool
from pytest_readonly_vm.image.disk_formats import FIXED, FOOTER, UNFREEZABLE, vhd_type
from pytest_readonly_vm.image.inspection import inspect_chain
from pytest_readonly_vm.image.not_a_disk import why_not_a_disk
from pytest_readonly_vm.sources.self_contained import refuse_other_files

MAKE_ROOM = "make room, or name another folder by --vm-image-store=DIR"

_PATIENCE = 3600.0
_FIT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,80}\.(?:img|raw|qcow2|vmdk|vdi|vhdx?|qed|iso)", re.IGNORECASE)
"""The names that a disk keeps, as people look at them. Nothing else depends on a name."""


def keep_disk(path: Path, folder: Path, *, written: str, limit: int, shown: str, qemu_img: Path) -> Path:
    """Move a disk into a folder of ours, in a format that guests can be frozen with, and return its path.

    :param path: a file that nobody else has, on the same file system.
    :param written: what its maker called it.
    :param limit: bytes that it may take.
    :param shown: what it is, for messages.
    :raises ImageError: it is no disk, damaged, too large, or takes other files.
    :raises OSError: it cannot be moved.
    """
    if reason := why_not_a_disk(path):
        raise ImageError(f"{shown} {reason}")
    refuse_other_files(path, shown=shown, qemu_img=qemu_img)
    _without_footer(path)
    [found] = inspect_chain(path, format=None, shown=shown, qemu_img=qemu_img)
    name = PurePath(written).name
    name = name if _FIT.fullmatch(name) else "disk"
    if found.format in UNFREEZABLE:
        return _converted(path, found.format, folder / f"{Path(name).stem}.qcow2", limit, shown, qemu_img)
    return path.rename(folder / name)


def _without_footer(path: Path) -> None:
    """A fixed VHD is a raw disk and a sector that says so; without this it is one that guests can be frozen with."""
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - FOOTER, 0))
        if vhd_type(file.read(FOOTER), size) == FIXED:
            file.truncate(size - FOOTER)


def _converted(path: Path, format: str, target: Path, limit: int, shown: str, qemu_img: Path) -> Path:
    measured = run_tool(
        [str(qemu_img), "measure", "-f", format, "-O", "qcow2", "--output=json", str(path)], timeout=_PATIENCE
    )
    if measured.returncode == 0 and json.loads(measured.stdout)["required"] > limit:
        raise ImageError(f"{shown} takes more than the {limit >> 20} MiB that the store of images may take")
    part = target.with_name(".converted")
    try:
        argv = [str(qemu_img), "convert", "-f", format, "-O", "qcow2", str(path), str(part)]
        done = run_tool(argv, timeout=_PATIENCE)
        if done.returncode != 0:
            words = " ".join(done.stderr.split()).replace("qemu-img: ", "") or "no word of why"
            advice = f"; {MAKE_ROOM}" if os.strerror(errno.ENOSPC) in words else ""
            what = f"{shown} cannot be converted from {format} to qcow2 in {target.parent}"
            raise ImageError(f"{what}: {words:.300}{advice}")
        path.unlink()
        return part.rename(target)
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
