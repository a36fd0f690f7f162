"""Owns the guests over which the promises of the channels are held, and how a test gets them."""

from collections.abc import Iterator, Sequence

import pytest

from pytest_readonly_vm import CommandTimeout, Lab, VirtualMachine, VmConfig
from tests.accelerator import ACCEL
from tests.guests.alpine import alpine
from tests.guests.debian import debian
from tests.guests.tiny_servers import tiny_with_servers
from tests.qemu.waiting import GENEROUS, LIMITS
from tests.templates import templates

GROUPS = ("tiny-agent-clone", "tiny-ssh-clone", "tiny-shell-clone")
"""Guest, channel, and how the machine comes to be: each channel, on the guest where it costs least."""

DEBIANS = ("debian-ssh-clone", "debian-agent-clone", "debian-auto-clone")
"""On a guest with systemd, a disk to write to, and other programs. The first boots while others boot the second."""

OTHERS = (*DEBIANS, "alpine-shell-cold")
"""The guests with other programs."""


def config(group: str) -> VmConfig:
    guest, channel, start = group.split("-")
    common = VmConfig().replace(accel=ACCEL, channel=channel, start=start, boot_timeout=300, cache=templates())
    if guest == "debian":
        return common.replace(image=debian())
    direct = alpine() if guest == "alpine" else tiny_with_servers()
    files = {"image": direct.disk, "kernel": direct.kernel, "initrd": direct.initrd}
    return common.replace(**files, append=direct.append, memory="256M")


COPIES = {"debian-agent-clone": "debian-auto-clone", "tiny-shell-clone": "tiny-auto-clone"}
"""Groups whose machines go on from the boot of another one, that of a guest which has a second channel as well."""


def machine(lab: Lab, group: str) -> VirtualMachine:
    """A machine of a group, which has the channel of that group and no other from then on."""
    vm = lab.start(config(COPIES.get(group, group)), name=group)
    if group in COPIES:
        vm.loop.run(vm._channels.channel(GENEROUS, only=group.split("-")[1]))
    return vm


def ended_by_its_limit(vm: VirtualMachine, command: str, *, stdout: str, stderr: str = "") -> CommandTimeout:
    """How a command that never ends is ended when it has printed this: a busy guest may need more than a second."""
    for limit in LIMITS:
        with pytest.raises(CommandTimeout, match=rf"did not end within {limit:g} s and was killed: ") as timeout:
            vm.run(command, timeout=limit)
        if (timeout.value.stdout, timeout.value.stderr) == (stdout, stderr):
            break
    return timeout.value


def machine_of_each(groups: Sequence[str]) -> object:
    """A fixture for a module: a machine of each group, one after the other, for all tests."""

    @pytest.fixture(scope="module", params=groups)
    def vm(request: pytest.FixtureRequest) -> Iterator[VirtualMachine]:
        with Lab() as lab:
            yield machine(lab, request.param)

    return vm
