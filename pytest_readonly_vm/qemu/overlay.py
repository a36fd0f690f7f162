"""Owns the making of qcow2 files that take a guest's writes."""

from pathlib import Path

from pytest_readonly_vm.errors import StartFailed
from pytest_readonly_vm.host.process import run_tool
from pytest_readonly_vm.image.base import BaseImage

_PATIENCE = 60.0  # seconds


def create_overlay(path: Path, above: BaseImage | int, *, qemu_img: Path, name: str) -> None:
    """Make one, empty; blocks for some milliseconds.

    :param above: the image whose name and size its header is to have, or a size in bytes, for one without a name below.
    :param name: the machine's, for the message.
    :raises StartFailed: it cannot be made.
    """
    named, size = ((), (str(above),)) if isinstance(above, int) else (("-F", above.format, "-b", str(above.path)), ())
    done = run_tool([str(qemu_img), "create", "-q", "-f", "qcow2", *named, str(path), *size], timeout=_PATIENCE)
    if done.returncode != 0:
        said = done.stderr.strip() or "qemu-img gave no answer"
        raise StartFailed(f"{name}: an overlay cannot be made: {said}")
