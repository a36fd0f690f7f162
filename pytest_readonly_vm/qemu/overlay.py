"""Owns the making of qcow2 files that take a guest's writes."""

from pathlib import Path

from pytest_readonly_vm.errors import StartFailed, VmError
from pytest_readonly_vm.host.qemu_binary import run_qemu_img
from pytest_readonly_vm.image.base import BaseImage


def create_overlay(path: Path, above: BaseImage | int, *, qemu_img: Path, name: str) -> None:
    """Make one, empty; blocks for some milliseconds.

    :param above: the image whose name and size its header is to have, or a size in bytes, for one without a name below.
    :param name: the machine's, for the message.
    :raises StartFailed: it cannot be made.
    """
    named, size = ((), (str(above),)) if isinstance(above, int) else (("-F", above.format, "-b", str(above.path)), ())
    create = ("create", "-q", "-f", "qcow2", *named, str(path), *size)
    try:
        run_qemu_img(qemu_img, create, failure=f"{name}: an overlay cannot be made")
    except VmError as error:
        raise StartFailed(str(error)) from None
