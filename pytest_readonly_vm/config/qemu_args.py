"""Owns what a user may not say in extra QEMU arguments. Pure.

Two kinds are refused before anything starts: arguments that a setting already decides (QEMU would take one of the two
and say nothing), and disks that the guest could write for good.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import zip_longest

_BREAKS_THE_PLUGIN = {
    "daemonize": "QEMU must stay a child of the test run",
    "S": "the guest would never start; use readonly_vm.qmp.execute('stop') instead",
    "incoming": "the guest would wait for a migration stream instead of booting",
    "loadvm": "a temporary snapshot has no saved state to load",
    "add-fd": "descriptors are not inherited by QEMU",
}
# Of the others, many can be told of an address: those of disks, displays, sounds, character devices, debuggers.
_WITHOUT_TCP = ("device", "global", "rtc", "boot", "smbios", "fw_cfg", "uuid", "vga", "icount", "usb", "action", "k")
_WRITABLE_DISK_OPTIONS = ("hda", "hdb", "hdc", "hdd", "fda", "fdb", "mtdblock", "sd", "pflash")


def objection(arguments: Sequence[str], decided: Mapping[str, str]) -> str | None:
    """Why these arguments cannot be used, in one sentence, or None when they can.

    :param decided: options of QEMU that a setting decides, and the name of each one's.
    """
    for argument, value in zip_longest(arguments, arguments[1:], fillvalue=""):
        option = argument.lstrip("-") if argument.startswith("-") else ""
        if setting := decided.get(option):
            return f"{argument} is decided by the setting {setting!r}; use that instead"
        if reason := _BREAKS_THE_PLUGIN.get(option):
            return f"{argument} cannot be used: {reason}"
        if option in _WRITABLE_DISK_OPTIONS:
            return f"{argument} would be written for good; use -drive file=...,format=...,snapshot=on instead"
        if option == "drive" and not _is_protected_drive(value):
            return f"-drive {value} would be written for good; add snapshot=on or readonly=on"
        if option == "blockdev" and not _is_read_only_node(value):
            return f"-blockdev {value} would be written for good; add read-only=on (snapshot=on does not cover it)"
    return None


def own_firmware(arguments: Sequence[str], machine: str | None) -> str | None:
    """What in these arguments, or in the options of a machine type, gives it a firmware of the user's, or None."""
    for option in ("pflash0", "pflash1", "firmware"):
        if option in _parts(machine or ""):
            return f"machine {machine}"
    for option, value in zip_longest(arguments, arguments[1:], fillvalue=""):
        if option.lstrip("-") == "bios" and option.startswith("-"):
            return f"{option} {value}"
        if option.lstrip("-") == "drive" and _parts(value).get("if") == "pflash":
            return f"{option} {value}"
    return None


def may_use_tcp(arguments: Sequence[str]) -> bool:
    """Whether QEMU itself may be told by these to connect, or to be connected to, by TCP."""
    return any(argument.startswith("-") and argument.lstrip("-") not in _WITHOUT_TCP for argument in arguments)


def what_no_copy_has(arguments: Sequence[str]) -> str | None:
    """Why a machine with these arguments cannot be copied while it runs, as far as they show that, or None."""
    for argument in arguments:
        if _parts(argument).get("snapshot") == "on" or argument.lstrip("-") == "snapshot":
            return f"qemu_args has {argument}: what the guest writes there would be missing in a copy"
        if argument.startswith("memory-backend") and _parts(argument).get("share") == "on":
            return f"qemu_args has {argument}: copies would share it"
    return None


def _is_protected_drive(value: str) -> bool:
    parts = _parts(value)
    return "file" not in parts or any(parts.get(key) == "on" for key in ("snapshot", "readonly", "read-only"))


def _is_read_only_node(value: str) -> bool:
    if value.startswith("{"):
        try:
            node = json.loads(value)
        except ValueError:
            return True  # QEMU's own complaint is better than ours
        return isinstance(node, dict) and (node.get("read-only") is True or node.get("driver") in _HARMLESS_DRIVERS)
    parts = _parts(value)
    return parts.get("read-only") == "on" or parts.get("driver") in _HARMLESS_DRIVERS


_HARMLESS_DRIVERS = ("null-co", "null-aio")


def _parts(value: str) -> dict[str, str]:
    """QEMU's ``key=value,key=value`` notation, in which a doubled comma stands for one."""
    joined = value.replace(",,", "\0")
    pairs = (part.partition("=") for part in joined.split(","))
    return {key: text.replace("\0", ",") for key, _, text in pairs}


def escaped(value: str) -> str:
    """A value in that notation."""
    return value.replace(",", ",,")
