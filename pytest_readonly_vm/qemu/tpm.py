"""Owns a machine's TPM 2.0: swtpm beside its QEMU, confined to the machine's folder as that is, and over with it.

QEMU talks to it over a socket that both inherit, and has all of its state in that of the machine, so a copy's TPM goes
on from where that of the guest was: https://www.qemu.org/docs/master/specs/tpm.html.
"""

import os
import shutil
import socket
from pathlib import Path

from pytest_readonly_vm.errors import ConfigurationError, HostError
from pytest_readonly_vm.host.process import Process
from pytest_readonly_vm.host.seal import Bounds
from pytest_readonly_vm.qemu.board import machine_type
from pytest_readonly_vm.qemu.resources import Resources
from pytest_readonly_vm.qemu.spec import MachineSpec

_PROGRAM, _FOLDER = "swtpm", "tpm"
_DEVICES = {
    "x86_64": ("tpm-crb", ("pc", "q35")),
    "i386": ("tpm-crb", ("pc", "q35")),
    "aarch64": ("tpm-tis-device", ("virt",)),
    "arm": ("tpm-tis-device", ("virt",)),
    "riscv64": ("tpm-tis-device", ("virt",)),
    "ppc64": ("tpm-spapr", ("pseries",)),
}
"""What QEMU calls it, and the machine types that it is for, by architecture."""


def tpm_device(spec: MachineSpec) -> str | None:
    """QEMU's name for the TPM of such a machine, if it is to have one.

    :raises ConfigurationError: such a machine has none.
    """
    config, arch = spec.config, spec.hypervisor.qemu.arch
    if not config.tpm:
        return None
    machine = machine_type(config, arch)
    device, machines = _DEVICES.get(arch, ("", ()))
    if not any(not machine or machine == one or machine.startswith(f"{one}-") for one in machines):
        raise ConfigurationError(
            f"{config.origin('tpm')}: tpm=on: {arch} machines of the type {machine or 'that QEMU takes'} have no TPM"
        )
    return device


def start_tpm(spec: MachineSpec, resources: Resources, folder: Path, line: socket.socket) -> Process:
    """Start it; `line` is its end of the one to QEMU. Whoever starts it ends it.

    :param folder: the machine's, which has the TPM's state below it.
    :raises HostError: it is not installed.
    :raises StartFailed: it does not start.
    """
    program = shutil.which(_PROGRAM, path=os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin")))
    if program is None:
        raise HostError(
            f"{spec.config.origin('tpm')}: tpm=on needs swtpm, which is not installed: on Debian, Ubuntu, Fedora, Arch "
            "and openSUSE install the package swtpm"
        )
    place = folder / _FOLDER
    place.mkdir(mode=0o700)
    control = f"type=unixio,clientfd={line.fileno()}"
    argv = (program, "socket", "--tpm2", "--terminate", "--ctrl", control, "--tpmstate", f"dir={place},mode=0600")
    return resources.spawner.start_confined(
        argv,
        name=f"{spec.name}: its TPM",
        env={**os.environ, "TMPDIR": str(place)},
        pass_fds=(line.fileno(),),
        run_folder=folder.parent,
        bounds=Bounds(folder=folder, tcp=False) if spec.hypervisor.seal.landlock else None,
    )
