"""Owns what the benchmarks boot: the guests of the tests, each as a `VmConfig`."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.host.qemu_binary import find_qemu
from tests.accelerator import ACCEL
from tests.guests import bootsector
from tests.guests.architectures import ARCHITECTURES
from tests.guests.debian import debian
from tests.guests.debian_uefi import debian_uefi
from tests.guests.tiny_linux import READY as TINY_READY
from tests.guests.tiny_linux import tiny_linux

_VARIABLE = "PYTEST_VM_QEMU"
_QEMU = os.environ.get(_VARIABLE)

READY = "hello"
"""What the boot sector prints."""


@contextmanager
def boot_sector() -> Iterator[VmConfig]:
    """512 bytes that print `READY` and halt: the least that can be called a guest, so that QEMU's own time is seen."""
    with TemporaryDirectory() as folder:
        image = bootsector.write_image(Path(folder) / "hello.img", bootsector.hello(f"{READY}\n"))
        # Nothing in it could use a channel, and QEMU's command line names no file that goes with the machine.
        yield _machine(
            image=image, memory="16M", ready=f"console:{READY}", channel="none", provision="none", start="cold"
        )


def tiny(arch: str = "x86_64") -> VmConfig:
    """A distribution's kernel with a busybox initramfs, started without a bootloader; built when it is not there."""
    guest = tiny_linux(arch)
    return _machine(
        image=guest.disk,
        kernel=guest.kernel,
        initrd=guest.initrd,
        append=guest.append,
        memory="256M",
        ready=f"console:{TINY_READY}",
    )


def full() -> VmConfig:
    """A Debian (or Ubuntu) with systemd and cloud-init, from its bootloader to the login prompt; built if need be."""
    return _machine(image=debian(), memory="1G", boot_timeout=600)


def firmwares() -> dict[str, VmConfig]:
    """The same Debian as different firmwares boot it, by their names for people."""
    uefi = full().replace(image=debian_uefi().shim)
    return {"BIOS": full(), "UEFI": uefi, "Secure Boot": uefi.replace(firmware="uefi-secure")}


def both() -> dict[str, VmConfig]:
    """The guests in which commands can be run, with as much memory, by their names for people."""
    return {"tiny Linux": tiny().replace(ready="auto", memory="1G"), "Debian": full()}


def others() -> dict[str, VmConfig]:
    """The same tiny guest for other architectures, emulated whatever the environment says."""
    return {
        f"tiny Linux, {arch}": tiny(arch).replace(ready="auto", accel="tcg", boot_timeout=600)
        for arch in ARCHITECTURES
        if arch != "x86_64"
    }


def emulator() -> str:
    """In words: which one runs them all, and how."""
    return f"QEMU {find_qemu(_QEMU, origin=_VARIABLE).version}, {ACCEL}"


def _machine(**settings: object) -> VmConfig:
    """Under TCG, so that numbers of different computers mean the same, unless the environment says otherwise, as it
    does for the suite; on the emulator that it names, as for any run. The format is as qemu-img finds it.
    """
    return VmConfig().replace(accel=ACCEL, **({"qemu": _QEMU} if _QEMU else {}), **settings)
