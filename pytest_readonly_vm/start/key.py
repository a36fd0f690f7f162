"""Owns the names of templates: a digest of everything that shapes a guest until it is ready. Pure, but for `stat`."""

import contextlib
import dataclasses
import hashlib
import json
import platform
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from pathlib import Path

from pytest_readonly_vm.config.prepared import code_of
from pytest_readonly_vm.config.setting import Part
from pytest_readonly_vm.config.settings import FILES, settings_in
from pytest_readonly_vm.image.image_file import Fingerprint
from pytest_readonly_vm.qemu.chain import DiskImage
from pytest_readonly_vm.qemu.command_line import PortWire, TpmWire, Wiring
from pytest_readonly_vm.qemu.drive import DriveWire
from pytest_readonly_vm.qemu.launch import port_names
from pytest_readonly_vm.qemu.named_files import named_files
from pytest_readonly_vm.qemu.spec import MachineSpec
from pytest_readonly_vm.qemu.tpm import tpm_device

FORMAT = 4
"""To be raised when a template of before can no longer be used."""

_FOLDER = Path("/machine")
_SEEN_BY_GUESTS = ("nested", "enable_pmu", "ignore_msrs", "ept", "npt", "avic", "enable_apicv", "vgif", "vls")
"""Parameters of KVM's modules that decide what processor a guest has; others, and counters, change from day to day."""


def key_of(spec: MachineSpec) -> str:
    """The key of the template of a machine that has just become ready, as hexadecimal digits."""
    config, qemu = spec.config, spec.hypervisor.qemu
    arguments, provided = told(spec)
    return digest(
        FORMAT,
        plugin(),
        qemu.version,
        qemu.identity(),
        processor(),
        kernel(Path("/")) if spec.hypervisor.accelerator.name == "kvm" else None,
        arguments,
        provided,
        [dataclasses.astuple(file.fingerprint) for file in spec.images],
        [_file(path) for path in named_files(config)],
        {name: code_of(getattr(config, name)) for name in settings_in(Part.KEY) if name not in FILES},
    )


def told(spec: MachineSpec) -> tuple[tuple[str, ...], list[str]]:
    """QEMU's arguments for such a machine, whatever it is called and wherever its files are open, and the digests of
    what provisioning gives its guest."""
    config, firmware = spec.config, spec.firmware
    given = spec.provision(_FOLDER, key=None)
    wiring = Wiring(
        monitor=0,
        console=0,
        drives=tuple(_without_descriptors(disk.wire((), None)) for disk in spec.disks),
        cdrom=DiskImage(0, spec.cd.format) if spec.cd else None,
        flash=tuple(
            replace(wire, code=wire.code and replace(wire.code, descriptor=0))
            for wire in firmware.wires(_FOLDER, from_state=False)
        ),
        rom=None if firmware.rom is None else 0,
        has_smm=firmware.needs_smm,
        tpm=TpmWire(device, 0) if (device := tpm_device(spec)) else None,
        ports=tuple(PortWire(device, name, 0) for device, name in port_names(config)),
        append=given.append,
        provision=given.qemu_args,
        sandboxed=spec.hypervisor.seal.sandbox,
    )
    arguments = replace(spec, name="").command_line(wiring)
    return arguments, [hashlib.sha256(content).hexdigest() for content in given.files.values()]


def _without_descriptors(drive: DriveWire) -> DriveWire:
    return replace(drive, chain=tuple(replace(one, descriptor=number) for number, one in enumerate(drive.chain)))


def keys_of(spec: MachineSpec) -> list[str]:
    """The keys of the guest that has booted, and of each of its layers upon those before."""
    keys = [key_of(spec)]
    for layer in spec.config.layers:
        keys.append(digest(keys[-1], layer.key()))
    return keys


def digest(*parts: object) -> str:
    """A digest of things that JSON can say."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _file(path: Path) -> object:
    return (str(path), dataclasses.astuple(Fingerprint.of(path.stat())))


@cache
def plugin() -> str:
    """The version of this package."""
    return version("pytest-readonly-vm")


@cache
def kernel(root: Path) -> object:
    """The kernel whose KVM runs a guest, and how that is set: the state of its processor and clocks is this KVM's.

    One that is emulated has seen nothing of it: QEMU, which is in the key, makes all of its computer.
    """
    told = {}
    for module in sorted(root.glob("sys/module/kvm*")):
        told[module.name] = ""
        for name in _SEEN_BY_GUESTS:
            with contextlib.suppress(OSError):  # not every module has it
                told[f"{module.name}.{name}"] = (module / "parameters" / name).read_text(errors="replace").strip()
    return [platform.release(), platform.version(), told]


@cache
def processor() -> str:
    """What the host's processor is; a guest under KVM has seen it, and a home folder may be on several computers."""
    lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    wanted = ("vendor_id", "cpu family", "model", "stepping", "flags", "CPU implementer", "CPU part", "Features")
    return f"{platform.machine()} {sorted({line for line in lines if line.startswith(wanted)})}"
