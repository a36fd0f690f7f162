"""Owns what UEFI firmware this computer has for guests: QEMU's firmware descriptors, read as libvirt reads them.

What a descriptor says: https://www.qemu.org/docs/master/interop/firmware.json. Of two with one name the one in the
later folder counts, an empty one takes the earlier away, and those that are left are gone through by their names.
"""

import contextlib
import fnmatch
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_readonly_vm.errors import HostError
from pytest_readonly_vm.host.qemu_binary import Qemu

FORMATS = ("raw", "qcow2")
"""Those of the files of a firmware that can be handed to QEMU."""

_SHARE = Path("/usr/share")
_FOLDER = Path("qemu/firmware")
_ENTRIES = 512  # in a folder; more are no firmware
_LARGEST = 1 << 20  # bytes of a descriptor

_VERSIONED = {"pc": "pc-i440fx-0", "q35": "pc-q35-0", "virt": "virt-0"}
"""What an alias of QEMU's stands for, as far as the patterns of descriptors can tell."""

_PACKAGES = {
    "x86_64": "on Debian and Ubuntu install ovmf, on Fedora and Arch edk2-ovmf, on openSUSE qemu-ovmf-x86_64",
    "i386": "on Debian and Ubuntu install ovmf-ia32, on Fedora edk2-ovmf-ia32, on Arch edk2-ovmf",
    "aarch64": (
        "on Debian and Ubuntu install qemu-efi-aarch64, on Fedora and Arch edk2-aarch64, on openSUSE qemu-uefi-aarch64"
    ),
    "arm": "on Debian and Ubuntu install qemu-efi-arm, on Fedora and Arch edk2-arm, on openSUSE qemu-uefi-aarch32",
    "riscv64": "on Debian (13 or later) and Ubuntu install qemu-efi-riscv64, on Fedora edk2-riscv64",
    "loongarch64": "on Debian (13 or later) install qemu-efi-loongarch64, on Fedora edk2-loongarch64",
}


@dataclass(frozen=True, slots=True)
class FirmwareFile:
    """One file of a firmware and its format."""

    path: Path
    format: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FirmwareFiles:
    """An UEFI firmware that is installed here, as its descriptor has it."""

    descriptor: Path
    code: FirmwareFile
    variables: FirmwareFile | None
    """What each machine's variables begin as; None where they are in `code`, or nowhere."""
    mapping: str
    """``split``, code and variables in a flash device each; ``combined`` in one; ``stateless``, code alone;
    ``memory``, code alone and as a ROM."""
    needs_smm: bool
    """Whether it protects its variables by System Management Mode."""

    @property
    def keeps_variables(self) -> bool:
        """Whether what a guest writes to its variables is there after a reboot."""
        return self.mapping in ("split", "combined")


def find_firmware(qemu: Qemu, *, machine: str, secure: bool) -> FirmwareFiles:
    """The first UEFI firmware for such machines that keeps variables, or else the first.

    :param machine: QEMU's machine type, without options.
    :param secure: whether it is to do Secure Boot, with keys that are enrolled already.
    :raises HostError: there is none; the message names the package to install.
    """
    fitting = list(_fitting(qemu, machine, secure))
    for one in fitting:
        if one.keeps_variables:
            return one
    if fitting:
        return fitting[0]
    what = "UEFI firmware that does Secure Boot, with keys enrolled," if secure else "UEFI firmware"
    where = ", ".join(str(folder) for folder in _folders(qemu))
    advice = _PACKAGES.get(qemu.arch, "install the package of your distribution that has it")
    raise HostError(
        f"no {what} for {qemu.arch} machines of the type {machine} is installed (looked for QEMU's descriptors in "
        f"{where}): {advice}"
    )


def _fitting(qemu: Qemu, machine: str, secure: bool) -> Iterator[FirmwareFiles]:
    for path in _descriptors(_folders(qemu)):
        try:
            found = json.loads(path.read_bytes()) if path.stat().st_size <= _LARGEST else {}
            if _is_for(found, qemu.arch, machine) and _has_features(found, secure):
                firmware = _read(found, path)
                if all(file.path.is_file() for file in (firmware.code, firmware.variables) if file):
                    yield firmware
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            continue  # libvirt, too, goes on to the next


def _folders(qemu: Qemu) -> list[Path]:
    """Where descriptors are looked for, the later ones before the earlier; also of a QEMU with a prefix of its own."""
    prefix = qemu.path.parent.parent
    folders = [_SHARE / _FOLDER, prefix / "share" / _FOLDER, Path("/etc") / _FOLDER]
    config = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    with contextlib.suppress(RuntimeError):  # a user without a home, as in many containers
        # As the XDG base directory specification has it.
        folders.append((config if config.is_absolute() else Path.home() / ".config") / _FOLDER)
    return list(dict.fromkeys(folders))


def _descriptors(folders: list[Path]) -> list[Path]:
    by_name: dict[str, Path] = {}
    for folder in folders:
        try:
            paths = sorted(folder.iterdir())[:_ENTRIES]
        except OSError:
            continue
        by_name |= {path.name: path for path in paths if path.suffix == ".json" and not path.name.startswith(".")}
    return [by_name[name] for name in sorted(by_name) if not _is_mask(by_name[name])]


def _is_mask(path: Path) -> bool:
    """Whether a descriptor only takes others away: an empty file, or a link to ``/dev/null``."""
    try:
        return path.stat().st_size == 0
    except OSError:
        return True


def _is_for(found: Mapping[str, Any], arch: str, machine: str) -> bool:
    names = {machine, _VERSIONED.get(machine, machine)}
    return "uefi" in found["interface-types"] and any(
        target["architecture"] == arch
        and any(fnmatch.fnmatchcase(name, pattern) for pattern in target["machines"] for name in names)
        for target in found["targets"]
    )


def _has_features(found: Mapping[str, Any], secure: bool) -> bool:
    features = set(found["features"])
    if secure:
        return {"secure-boot", "enrolled-keys"} <= features
    # With SMM it would want another machine, and with keys it would refuse what is not signed.
    return features.isdisjoint({"enrolled-keys", "requires-smm"})


def _read(found: Mapping[str, Any], descriptor: Path) -> FirmwareFiles:
    """:raises ValueError: it is mapped as this package cannot map it."""
    mapping = found["mapping"]
    needs_smm = "requires-smm" in found["features"]
    if mapping["device"] == "memory":
        code = FirmwareFile(Path(mapping["filename"]), "raw")
        return FirmwareFiles(descriptor=descriptor, code=code, variables=None, mapping="memory", needs_smm=needs_smm)
    mode = mapping.get("mode", "split")
    if mapping["device"] != "flash" or mode not in ("split", "combined", "stateless"):
        raise ValueError(f"{mapping['device']}, {mode}")
    return FirmwareFiles(
        descriptor=descriptor,
        code=_file(mapping["executable"]),
        variables=_file(mapping["nvram-template"]) if mode == "split" else None,
        mapping=mode,
        needs_smm=needs_smm,
    )


def _file(found: Mapping[str, Any]) -> FirmwareFile:
    path, format = Path(found["filename"]), found["format"]
    if format not in FORMATS or not path.is_absolute():
        raise ValueError(f"{path}, {format}")
    return FirmwareFile(path, format)
