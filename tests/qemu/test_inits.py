"""A guest without systemd counts as booted when its own init has done its work, however early its shell answers."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_readonly_vm import VirtualMachine
from tests.guests import cpio
from tests.guests.tiny_linux import tiny_linux

_BEGINNING = """\
#!/bin/sh
export PATH=/bin:/sbin:/usr/bin:/usr/sbin PS1='tiny# '
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in /modules/*; do insmod "$module"; done
"""
# The shell of a direct boot answers from here on.
_DELAYED = _BEGINNING + "for i in $(seq 10); do sleep .1; done\nmount /dev/vda /mnt\n"
_ASLEEP = _BEGINNING + "sleep 2\nmount /dev/vda /mnt\n"


def script(text: str) -> cpio.Member:
    return cpio.file("init", text.encode(), mode=0o755)


GETTY = [
    cpio.symlink("init", "/bin/busybox"),
    cpio.directory("etc/init.d"),
    cpio.file("etc/init.d/rcS", _ASLEEP.encode(), mode=0o755),
    cpio.file("etc/inittab", b"::sysinit:/etc/init.d/rcS\n::respawn:/sbin/getty -L ttyS0 115200 vt100\n"),
]
INITS = {
    "a script that ends with a shell": [script(_DELAYED + "while :; do setsid cttyhack sh; done\n")],
    "a script that waits for ever": [script(_DELAYED + "while :; do sleep 1000; done\n")],
    "BusyBox's init with a getty": GETTY,
}


def with_files(initrd: Path, members: list[cpio.Member], path: Path) -> Path:
    """An initial RAM disk with more files, at `path`: what is later counts."""
    content = initrd.read_bytes()
    path.write_bytes(content + bytes(-len(content) % 4) + cpio.archive(members))
    return path


@pytest.mark.parametrize("init", INITS)
def test_its_disks_are_mounted(init: str, tmp_path: Path, boot: Callable[..., VirtualMachine]) -> None:
    guest = tiny_linux()
    initrd = with_files(guest.initrd, INITS[init], tmp_path / "initrd")
    files = {"kernel": guest.kernel, "initrd": initrd, "append": guest.append}
    machine = boot(guest.disk, **files, memory="256M", channel="shell", ready="systemd", start="cold")
    assert machine.run("grep -c ' /mnt ' /proc/mounts", check=False).stdout == "1\n"
