"""Owns the question whether a disk is all in one file: what a stranger has made must not name files of this computer.

A backing file, a file for data, the extents of a VMDK: QEMU opens what a header names. Where a disk comes from an
archive or the network, the file that is meant did not come with it, and the one of that name here was not meant.
"""

import json
import struct
from pathlib import Path

from pytest_readonly_vm.errors import ImageError
from pytest_readonly_vm.host.tool import run_tool
from pytest_readonly_vm.image.disk_formats import is_description_of_vmdk

_PATIENCE = 120.0
_EXTERNAL_DATA = 1 << 2  # of qcow2's incompatible features, docs/interop/qcow2.txt


def refuse_other_files(path: Path, *, shown: str, qemu_img: Path) -> None:
    """Look at a disk that a stranger has made; `shown` names it.

    :raises ImageError: it takes another file.
    """
    with path.open("rb") as file:
        head = file.read(4096)
    # First what QEMU opens at once; for what is below, it is asked not to.
    if _names_data(head):
        raise ImageError(f"{shown} is a disk in several files, of which this is the description; {_JOIN}")
    done = run_tool([str(qemu_img), "info", "--output=json", str(path.absolute())], timeout=_PATIENCE)
    if done.returncode != 0:
        return  # what is to be said of it, who opens it as a base says
    found = json.loads(done.stdout)
    if below := found.get("backing-filename"):
        raise ImageError(f"{shown} is only what was written above another disk, {below}, which is not in it; {_JOIN}")


_JOIN = "have it made one file: qemu-img convert -O qcow2 OLD NEW"


def _names_data(head: bytes) -> bool:
    """Whether the data of a disk is in other files, by how it begins."""
    if head.startswith(b"QFI\xfb") and len(head) >= 80:
        version, features = struct.unpack_from(">I64xQ", head, 4)
        return bool(version >= 3 and features & _EXTERNAL_DATA)
    if head.startswith(b"KDMV"):
        return head[12:20] == bytes(8)  # no capacity of its own: QEMU takes the description that is in it
    return is_description_of_vmdk(head)
