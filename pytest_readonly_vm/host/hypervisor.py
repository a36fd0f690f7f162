"""Owns the answer to "with what would this configuration run here": emulator, accelerator and seal together."""

from dataclasses import dataclass
from pathlib import Path

from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.host.accel import Accelerator, choose
from pytest_readonly_vm.host.qemu_binary import Qemu, find_qemu
from pytest_readonly_vm.host.qemu_features import Features, find_features
from pytest_readonly_vm.host.seal import Seal, choose_seal

SLOWNESS = {"kvm": 1.0, "tcg": 4.0}
"""By how much guests are slower under each accelerator, as a rule of thumb."""


@dataclass(frozen=True, slots=True)
class Hypervisor:
    """What runs machines of one kind on this computer."""

    qemu: Qemu
    qemu_img: Path
    accelerator: Accelerator
    seal: Seal
    features: Features

    def describe(self) -> str:
        """One line for people."""
        return f"QEMU {self.qemu.version} {self.qemu.arch}, {self.accelerator.describe_with_age()}"

    def slowness(self, config: VmConfig) -> float:
        """By how much the times in `config` that are meant for fast computers are to be multiplied here."""
        if config.timeout_factor != "auto":
            return float(config.timeout_factor)
        return SLOWNESS.get(self.accelerator.name, 1.0)


def find_hypervisor(config: VmConfig, *, arch: str, qemu_img: Path) -> Hypervisor:
    """Find and probe what `config` asks for, for guests of an architecture in QEMU's words.

    :raises HostError: something is missing or does not work; the message says what and what to do.
    """
    qemu = find_qemu(config.qemu, arch=arch, origin=config.origin("qemu"))
    return Hypervisor(
        qemu=qemu,
        qemu_img=qemu_img,
        accelerator=choose(config.accel, qemu, origin=config.origin("accel")),
        seal=choose_seal(config.seal, has_sandbox=qemu.has_sandbox, origin=config.origin("seal")),
        features=find_features(qemu),
    )
