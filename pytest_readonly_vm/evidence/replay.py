"""Owns the script by which a person starts something like a machine of a test by hand. Pure.

What a test's QEMU gets from us as descriptors, and what is in the machine's own folder, is not there any more then. In
their place are the files that they were, or nothing.
"""

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pytest_readonly_vm.config.network_image import RANGES
from pytest_readonly_vm.config.qemu_args import escaped
from pytest_readonly_vm.evidence.redaction import option_without_secrets
from pytest_readonly_vm.image.image_file import ImageFile
from pytest_readonly_vm.image.network_file import NOWHERE, ChainFile, Where
from pytest_readonly_vm.qemu.command_line import CDROM, TPM
from pytest_readonly_vm.qemu.drive import below, drive_of

_BY_DESCRIPTOR = re.compile(r"socket,id=(\w+),fd=(\d+)")
_MEMORY = re.compile(r",?memory-backend=ram\b")
_DRIVE = re.compile(r"if=none,id=([\w-]+),")
_FLASH = re.compile(r"if=pflash,unit=(\d+)")
_SEED = "seed0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """How one QEMU was started."""

    name: str
    argv: Sequence[str]
    folder: Path
    """The machine's own, which goes with it."""
    disks: Mapping[str, Sequence[tuple[int, Where, str]]] = field(default_factory=dict)
    """The files of the image of each disk, by its name, the topmost first: descriptor, path, format."""
    blank: Mapping[str, int] = field(default_factory=dict)
    """The sizes of the disks without one, in bytes."""
    cdrom: tuple[int, Path] | None = None
    """The image of a CD: descriptor, path."""
    firmware: Sequence[tuple[int, Where, str]] = ()
    """The same for those of its firmware."""
    credentials: str | None = None
    """The text for systemd in the guest, if there is one."""
    is_copy: bool = False
    """Whether the guest did not boot but went on from a frozen one."""


def opened_as(files: Iterable[ChainFile]) -> list[tuple[int, Where, str]]:
    """Of files that QEMU was given: descriptor, path, format."""
    return [(file.descriptor if isinstance(file, ImageFile) else NOWHERE, file.path, file.format) for file in files]


def script(started: Started) -> str:
    """A shell script that boots the same guest on the same hardware from the same base, which is not written."""
    notes: list[str] = []
    options = list(_options(started, notes))
    head = [
        "#!/bin/sh",
        f"# Boots what the machine {_one_line(started.name)} booted. The base image is not written (snapshot=on).",
        "# The guest's serial console is this terminal; Ctrl-a x ends QEMU, Ctrl-a c is its monitor, and back.",
        "#",
        *(f"# {_one_line(note)}" for note in notes),
        "",
    ]
    program = shlex.quote(started.argv[0])
    lines = [" ".join(shlex.quote(word) for word in option) for option in options]
    return "\n".join(head) + "exec " + " \\\n  ".join([program, *lines]) + "\n"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _pairs(words: Iterable[str]) -> Iterator[tuple[str, str | None]]:
    """Options with their values. One without a value is followed by another option."""
    option: str | None = None
    for word in words:
        if word.startswith("-") and len(word) > 1:
            if option is not None:
                yield option, None
            option = word
        elif option is not None:
            yield option, word
            option = None
    if option is not None:
        yield option, None


def _options(started: Started, notes: list[str]) -> Iterator[tuple[str, ...]]:
    if started.is_copy:
        notes.append("The machine was a copy of a frozen guest, the script boots anew.")
    files = (*(file for layers in started.disks.values() for file in layers), *started.firmware)
    known: Mapping[int, tuple[Where, str]] = {number: (path, kind) for number, path, kind in files}
    if started.cdrom is not None:
        known = {**known, started.cdrom[0]: (started.cdrom[1], "CD")}
    for option, value in _pairs(started.argv[1:]):
        if value is None:
            yield (option,)
        elif (changed := _changed(started, option, value, known, notes)) is not None:
            yield from changed
        else:
            yield option, option_without_secrets(option, value)


def _names(started: Started) -> tuple[str, ...]:
    return (*started.disks, *started.blank)


def _drives(started: Started) -> dict[str, str]:
    """What each disk had in it, by QEMU's names for them: the topmost file of its image, or nothing."""
    found = {}
    for name, layers in started.disks.items():
        _, path, kind = layers[0]
        found[drive_of(name)] = f"format={kind},file={escaped(str(path).removeprefix(RANGES))}"
    for name, size in started.blank.items():
        found[drive_of(name)] = f"driver=null-co,read-zeroes=on,size={size}"
    return found


def _changed(
    started: Started, option: str, value: str, layers: Mapping[int, tuple[Where, str]], notes: list[str]
) -> list[tuple[str, ...]] | None:
    """What stands for an option that cannot be as it was; None for one that can."""
    by_descriptor = _BY_DESCRIPTOR.fullmatch(value)
    if option == "-add-fd":
        number = int(re.findall(r"fd=(\d+)", value)[0])
        path, kind = layers.get(number, ("a file of a frozen guest, left out", ""))
        notes.append(f"Descriptor {number} was {path}{f' ({kind})' if kind else ''}.")
    elif option == "-chardev" and by_descriptor:
        device, number = by_descriptor[1], int(by_descriptor[2])
        notes.append(f"Descriptor {number} was the socket of: {device}.")
        if device == TPM:
            notes.append("Left out: the TPM, which was a process of its own.")
            return []
        if device == "console":
            return [("-chardev", "stdio,id=console,mux=on,signal=off"), ("-mon", "chardev=console,mode=readline")]
        return [] if device == "monitor" else [("-chardev", f"null,id={device}")]
    elif option == "-bios" and started.firmware:
        return [("-bios", str(started.firmware[0][1]))]
    elif option == "-drive" and (unit := _FLASH.match(value)) and int(unit[1]) < len(started.firmware):
        # What was written to the variables of a machine goes with it, and a copy has neither of the files.
        _, path, kind = started.firmware[int(unit[1])]
        access = "readonly=on" if ",readonly=on," in value else "snapshot=on"
        return [("-drive", f"if=pflash,unit={unit[1]},{access},format={kind},file={escaped(str(path))}")]
    elif option == "-drive" and (disk := _DRIVE.match(value)) and disk[1] in (drives := _drives(started)):
        return [("-drive", f"if=none,id={disk[1]},snapshot=on,{drives[disk[1]]}")]
    elif option == "-blockdev" and any(f'"node-name":"{below(name)}"' in value for name in _names(started)):
        return []
    elif option == "-blockdev" and f'"node-name":"{CDROM}"' in value and started.cdrom is not None:
        file = {"driver": "file", "filename": str(started.cdrom[1])}
        node = {"driver": "raw", "node-name": CDROM, "read-only": True, "file": file}
        return [("-blockdev", json.dumps(node))]
    elif option == "-machine" and _MEMORY.search(value):
        return [("-machine", left)] if (left := _MEMORY.sub("", value).strip(",")) else []
    elif option == "-smbios" and value.startswith("type=11,path=") and str(started.folder) in value:
        if started.credentials is not None:
            return [("-smbios", f"type=11,value={escaped(started.credentials)}")]
        notes.append("Left out: the credentials by which systemd in the guest opens a channel.")
    elif _is_seed(option, value):
        if option == "-drive":
            notes.append("Left out: the seed for cloud-init, as user data may have secrets.")
    elif not _goes_with_the_machine(option, value):
        return None
    return []


def _is_seed(option: str, value: str) -> bool:
    return (option == "-drive" and f"id={_SEED}," in value) or (option == "-device" and f"drive={_SEED}" in value)


def _goes_with_the_machine(option: str, value: str) -> bool:
    return (
        option == "-incoming"
        or (option == "-mon" and value.startswith(("chardev=monitor,", "chardev=human,")))
        or (option == "-chardev" and "id=human," in value)
        or option == "-tpmdev"
        or (option == "-device" and value.endswith(",tpmdev=tpm0"))
        or (option == "-object" and value.startswith("memory-backend-") and "id=ram," in value)
    )
