"""Owns how QEMU is told of a machine's firmware: flash devices, their files, and who may write to them. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_readonly_vm.config.qemu_args import escaped
from pytest_readonly_vm.qemu.chain import DiskImage, chain


@dataclass(frozen=True, slots=True)
class FlashWire:
    """A flash device of the firmware, whose content QEMU has in memory.

    It begins as the read-only `code`, as `variables`, a file of the machine's own, or blank, if it comes by a state.
    """

    size: int
    """In bytes."""
    writable: bool
    code: DiskImage | None = None
    variables: Path | None = None
    format: str = "raw"
    """Of `variables`."""


def flash_arguments(devices: Sequence[FlashWire], rom: int | None, *, has_smm: bool) -> tuple[str, ...]:
    """QEMU's arguments for a firmware, which is in flash devices or a ROM; `Wiring` says what these are."""
    arguments: list[str] = []
    if has_smm:
        # Sleep to RAM would end with the flash open: https://github.com/tianocore/edk2/blob/master/OvmfPkg/README
        arguments += ["-global", "driver=cfi.pflash01,property=secure,value=on", "-global", "ICH9-LPC.disable_s3=1"]
    if rom is not None:
        arguments += ["-bios", f"/proc/self/fd/{rom}"]
    for unit, flash in enumerate(devices):
        if flash.code is not None:
            arguments += ["-add-fd", f"fd={flash.code.descriptor},set={flash.code.descriptor}"]
            content = f"file={escaped('json:' + chain([flash.code]))}"
        elif flash.variables is not None:
            # Nobody reads the file but this QEMU, once.
            content = f"cache=unsafe,format={flash.format},file={escaped(str(flash.variables))}"
        else:
            content = f"driver=null-co,read-zeroes=off,size={flash.size}"
        access = "" if flash.writable else ",readonly=on"
        arguments += ["-drive", f"if=pflash,unit={unit}{access},{content}"]
    return tuple(arguments)
