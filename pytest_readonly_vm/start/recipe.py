"""Owns what a frozen guest is made of as content, by which another computer knows whether it is what it would make.

A `key_of` names files by inode and time, which is sound and quick here and says nothing elsewhere. Here each file is
its SHA-256. What a guest is, and what it takes to go on with it, are told apart: so whoever has the one and not the
other can say why.
"""

import hashlib
import itertools
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pytest_readonly_vm.config.prepared import code_of
from pytest_readonly_vm.config.qemu_args import what_no_copy_has
from pytest_readonly_vm.config.setting import Part
from pytest_readonly_vm.config.settings import FILES, settings_in
from pytest_readonly_vm.errors import VmError
from pytest_readonly_vm.host.hypervisor import Hypervisor
from pytest_readonly_vm.image.image_file import Fingerprint, ImageFile
from pytest_readonly_vm.image.kept_digests import KeptDigests
from pytest_readonly_vm.image.network_file import ChainFile
from pytest_readonly_vm.qemu.board import cpu_model
from pytest_readonly_vm.qemu.named_files import named_files, why_untold
from pytest_readonly_vm.qemu.spec import MachineSpec
from pytest_readonly_vm.start.key import FORMAT, digest, kernel, plugin, told

_HALF = 32
"""Digits of each half of a name. What they stand for is compared as a whole when it is used."""
_DIGITS = 64
"""Of a SHA-256."""
_OF_THIS_COMPUTER = ("host", "max", "base")
"""CPU models that are under KVM as much as the computer's processor has, and so are others elsewhere."""
_PROGRAM, _MODEL = "QEMU", "CPU model"

_digests = KeptDigests()


class Untravelled(VmError):
    """A frozen guest that can be of use on this computer only; the message says why."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What is known of a frozen guest. Of files it may be where they are, or what is in them: see `resolved`."""

    guest: Any
    """JSON: all that shapes the guest until it is ready, with its layers."""
    fits: Mapping[str, str]
    """What it takes to go on with its state, each by a name for people."""
    files: tuple[Any, ...]
    """Those of which it is made: each its path and fingerprint, or its SHA-256. That of the emulator comes first."""

    @classmethod
    def of(cls, spec: MachineSpec, *, layers: int) -> "Recipe":
        """Of a machine with the first of its layers. Nothing is read, but for the times of files.

        :raises Untravelled: its state is bound to this computer.
        """
        _refuse_what_is_bound(spec)
        # Nothing of the seal reaches the guest.
        unsealed = replace(spec.hypervisor, seal=replace(spec.hypervisor.seal, sandbox=False))
        arguments, provided = told(replace(spec, hypervisor=unsealed))
        named = named_files(spec.config)
        for number, path in enumerate(named):
            if not path.is_absolute():  # so it is called the same wherever the project is
                continue
            arguments = tuple(word.replace(str(path), f"<file {number}>") for word in arguments)
        guest = {
            "format": FORMAT,
            "arguments": _without(arguments[1:], "-accel", "-cpu"),
            "provided": provided,
            "settings": {
                name: code_of(getattr(spec.config, name)) for name in settings_in(Part.KEY) if name not in FILES
            },
            "layers": [layer.portable_key() for layer in spec.config.layers[:layers]],
        }
        fits = _fits(spec.hypervisor, _model(spec) or "that of the machine type")
        files = [
            _place(spec.hypervisor.qemu.path),
            *map(_image, spec.images),
            *map(_place, named),
        ]
        return cls(guest, fits, tuple(files))

    def resolved(self) -> "Recipe":
        """The same with the content of its files.

        :raises Untravelled: one is no longer what the guest was made of, or cannot be read.
        """
        return replace(self, files=tuple(map(_resolved, self.files)))

    @property
    def name(self) -> str:
        """By which it is known everywhere: what guest it is, and what it takes. Only of one that is `resolved`."""
        return self.guest_name + digest(dict(self.fits), self.files[0])[:_HALF]

    @property
    def guest_name(self) -> str:
        """The half of that which says what guest it is."""
        return digest(self.guest, self.files[1:])[:_HALF]

    def of_cluster(self, formed_by: str) -> "Recipe":
        """Of a cluster of such machines that a function forms, of which `formed_by` is the portable key."""
        return replace(self, guest={**self.guest, "cluster": formed_by})

    def below(self) -> list["Recipe"]:
        """Those of the guest that has booted, and of each layer that is below this one or below the cluster."""
        layers, is_cluster = self.guest["layers"], "cluster" in self.guest
        numbers = range(len(layers) + is_cluster)
        return [replace(self, guest={**_bottom(self.guest), "layers": layers[:number]}) for number in numbers]

    def likeness(self, other: "Recipe") -> tuple[bool, int, int] | None:
        """How much they may have in common: of the greater more. None if they are not of the same guest.

        That is whether both are known to be of the same files, how many layers they share, and, below zero, how many
        the other has beyond. Nothing is read, so of some files it is not known whether they are the same.
        """
        if _bottom(self.guest) != _bottom(other.guest):
            return None
        is_same = self.files[1:] == other.files[1:]
        if not is_same and all(isinstance(file, str) for file in (*self.files, *other.files)):
            return None
        ours, theirs = self.guest["layers"], other.guest["layers"]
        shared = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(ours, theirs, strict=False)))
        return is_same, shared, shared - len(theirs)

    def misfit(self, here: "Recipe") -> str | None:
        """Why it cannot be gone on with where `here` is what would be made, or None."""
        for name, ours in here.fits.items():
            if (theirs := self.fits.get(name)) != ours:
                return f"its {name} is {theirs}, and here it is {ours}"
        if self.files[0] != here.files[0]:
            build, ours = (str(one.files[0])[:12] for one in (self, here))
            return f"its {_PROGRAM} is another build of {here.fits[_PROGRAM]} (SHA-256 {build}…, here {ours}…)"
        return None

    def unfit(self, hypervisor: Hypervisor) -> str | None:
        """Why it cannot be gone on with on this computer, whatever guest it is, or None.

        :raises OSError: the emulator cannot be read.
        """
        _, build = _read(hypervisor.qemu.path)
        return self.misfit(Recipe(None, _fits(hypervisor, self.fits.get(_MODEL, "")), (build,)))

    @property
    def arch(self) -> str:
        """Of the guest, in QEMU's words."""
        return self.fits.get(_PROGRAM, "").rpartition(" ")[2]

    def told(self) -> dict[str, Any]:
        """As JSON can say it."""
        return {"guest": self.guest, "fits": dict(self.fits), "files": list(self.files)}

    @classmethod
    def read(cls, told: Any) -> "Recipe":
        """Of what `told` said.

        :raises KeyError, TypeError, ValueError, AttributeError: it is something else.
        """
        fits = {str(name): str(value) for name, value in told["fits"].items()}
        return cls(told["guest"], fits, tuple(told["files"]))


def _bottom(guest: Any) -> dict[str, Any]:
    """What is below all layers."""
    return {name: part for name, part in guest.items() if name not in ("layers", "cluster")}


def _refuse_what_is_bound(spec: MachineSpec) -> None:
    """:raises Untravelled: its state is bound to this computer."""
    model = _model(spec)
    if spec.hypervisor.accelerator.name == "kvm" and (model or "").partition(",")[0] in ("", *_OF_THIS_COMPUTER):
        raise Untravelled(
            f"under KVM its CPU model, {model or 'the default'}, is what this computer's processor has; "
            "name one that others have as well, by --vm-cpu-model"
        )
    if reason := what_no_copy_has(spec.config.qemu_args):
        raise Untravelled(reason)
    if reason := why_untold(spec.config):
        raise Untravelled(f"qemu_args or machine names {reason}")


def _fits(hypervisor: Hypervisor, model: str) -> dict[str, str]:
    accelerator = hypervisor.accelerator.name
    fits = {
        "pytest-readonly-vm": plugin(),
        _PROGRAM: f"{hypervisor.qemu.version} {hypervisor.qemu.arch}",
        "accelerator": accelerator,
        _MODEL: model,
    }
    if accelerator == "kvm":
        fits |= {"processor's features": _features(), "kernel with KVM": digest(kernel(Path("/")))[:12]}
    return fits


def _model(spec: MachineSpec) -> str | None:
    hypervisor = spec.hypervisor
    return cpu_model(spec.config, hypervisor.qemu.arch, hypervisor.accelerator.name, hypervisor.features)


def _features() -> str:
    """What this computer's processor can do, as a short text; of its model a guest with a named one sees nothing."""
    lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    told = sorted({line for line in lines if line.startswith(("vendor_id", "flags", "CPU implementer", "Features"))})
    return f"{platform.machine()} {hashlib.sha256(repr(told).encode()).hexdigest()[:12]}"


def _without(arguments: tuple[str, ...], *options: str) -> list[str]:
    """Arguments without some options and the value of each."""
    pairs = zip(("", *arguments), arguments, strict=False)
    return [word for before, word in pairs if word not in options and before not in options]


def _numbers(fingerprint: Fingerprint) -> list[int]:
    return [
        fingerprint.device,
        fingerprint.inode,
        fingerprint.size,
        fingerprint.mtime_ns,
        fingerprint.ctime_ns,
    ]


def _image(file: ChainFile) -> Any:
    if isinstance(file, ImageFile):
        return [str(file.path), *_numbers(file.fingerprint)]
    _, _, digits = file.fingerprint.sha256.rpartition(":")
    if len(digits) != _DIGITS:
        raise Untravelled(
            f"nobody says the SHA-256 of {file.path}, which stays on the network; write it behind #sha256="
        )
    return digits


def _place(path: Path) -> list[Any]:
    return [str(path), *_numbers(Fingerprint.of(path.stat()))]


def _resolved(file: Any) -> str:
    if isinstance(file, str):
        return file
    path, *numbers = file
    try:
        found, digits = _read(Path(path))
    except OSError as error:
        raise Untravelled(f"{path}, of which it was made, cannot be read: {error.strerror}") from None
    if difference := Fingerprint(*numbers).difference(found):
        raise Untravelled(f"{path}, of which it was made, {difference} since")
    return digits


def _read(path: Path) -> tuple[Fingerprint, str]:
    """Which file it is, and the SHA-256 of what is in it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fingerprint = Fingerprint.of(os.fstat(descriptor))
        return fingerprint, _digests.sha256(ImageFile(path, "raw", descriptor, fingerprint))
    finally:
        os.close(descriptor)
