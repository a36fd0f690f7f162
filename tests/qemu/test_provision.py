"""Guests that nobody prepared get a root shell, each in the way that it knows; what is secret is shown to nobody."""

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_readonly_vm import BootTimeout, ChannelError, ChannelLost, Lab, VmConfig
from pytest_readonly_vm.guest.login import login
from tests.accelerator import ACCEL
from tests.conftest import READY
from tests.guests import cpio, tools
from tests.guests.debian import PASSWORD, debian
from tests.guests.disk import PARTITION_START
from tests.guests.tiny_linux import tiny_linux
from tests.qemu import channels
from tests.qemu.test_inits import GETTY, with_files
from tests.qemu.waiting import GENEROUS, LIMITS

SECRET = "very-secret"
SHADOW = b"root:$5$readonlyvm$ewpcNE44kgXA6B.OB6mBW850IKMsNqjLc3k7eXxThrA:19000::::::\n"
"""That root's password is `SECRET`."""

SHELL = VmConfig().replace(accel=ACCEL, channel="shell", start="cold", boot_timeout=300)


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


@pytest.fixture
def tiny() -> VmConfig:
    guest = tiny_linux()
    return SHELL.replace(kernel=guest.kernel, initrd=guest.initrd, append=guest.append, memory="256M")


@pytest.fixture
def debians_kernel(tmp_path: Path) -> dict[str, Path]:
    """Kernel and initial RAM disk of the Debian guest, taken out of its image."""
    raw = tmp_path / "raw"
    tools.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", debian(), raw])
    system = f"{raw}?offset={PARTITION_START}"
    names = tools.run(["debugfs", "-R", "ls -p /boot", system]).split("/")
    files = {"kernel": "vmlinuz-", "initrd": "initrd.img-"}
    for setting, start in files.items():
        name = next(name for name in names if name.startswith(start))
        tools.run(["debugfs", "-R", f"dump /boot/{name} {tmp_path / setting}", system])
    raw.unlink()
    return {setting: tmp_path / setting for setting in files}


def test_another_shell_comes_when_one_ends(lab: Lab) -> None:
    vm = channels.machine(lab, "tiny-shell-clone")
    with pytest.raises(ChannelLost):
        vm.run("kill -KILL 0; sleep 600", timeout=60)
    assert vm.run("echo again").stdout == "again\n"


def test_debian_from_the_kernel_command_line(lab: Lab, debians_kernel: dict[str, Path]) -> None:
    append = "root=LABEL=debian ro console=ttyS0 quiet systemd.unit=basic.target"  # which is soon reached
    vm = lab.start(SHELL.replace(image=debian(), append=append, **debians_kernel), name="debian")
    # The shell is older than systemd, and the machine was ready only when systemd had finished.
    assert vm.run("systemctl is-system-running").stdout == "running\n"
    assert set(vm.boot_phases) == {"firmware", "kernel", "userspace", "channel"}
    assert sum(vm.boot_phases.values()) == pytest.approx(vm.boot_seconds, rel=0.1)


def test_debian_by_its_own_bootloader_from_systemds_credentials(lab: Lab) -> None:
    vm = lab.start(channels.config("debian-auto-clone"), name="debian")
    with contextlib.suppress(ChannelLost):  # if the agent was the first to answer
        vm.run("systemctl stop qemu-guest-agent")
    assert vm.run("systemctl is-system-running").stdout == "running\n"
    assert vm.channel == "shell"
    # What a command of a service would not have, but a user's has.
    assert vm.run("grep SigIgn /proc/$$/status").stdout.split()[1].lstrip("0") in ("", "6")
    assert vm.run("ls /etc/systemd/system /etc/udev/rules.d | grep readonly", check=False).stdout == ""


def test_a_login_prompt_is_answered_and_the_password_shown_to_nobody(lab: Lab, tiny: VmConfig, tmp_path: Path) -> None:
    assert tiny.initrd is not None
    users = [cpio.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n"), cpio.file("etc/shadow", SHADOW)]
    config = tiny.replace(
        initrd=with_files(tiny.initrd, GETTY + users, tmp_path / "initrd"),
        image=tiny_linux().disk, provision="none", login="root", password=SECRET,
    )  # fmt: skip
    vm = lab.start(config, name="tiny")
    assert vm.run("id -u").stdout == "0\n"
    assert SECRET not in repr(config) + vm.command_line + vm.console.text
    assert "password='***'" in repr(config)


def test_debians_login_prompt_is_answered(lab: Lab) -> None:
    """In a guest that has booted for other tests, once its ways to a channel have been closed."""
    vm = lab.start(channels.config("debian-auto-clone"), name="debian")
    with contextlib.suppress(ChannelLost):
        vm.run("systemctl stop readonly-vm-shell qemu-guest-agent")
    typist = login(vm.config.replace(login="root", password=PASSWORD), vm.console, vm._channels, vm.name)
    assert typist is not None
    vm.loop.run(typist.run())
    # Nobody has logged in where a service has started the shell: then it is 4294967295.
    assert vm.run("id -u; cat /proc/self/loginuid").stdout == "0\n0"
    assert not re.search(rf"\b{PASSWORD}\b(?!-vm)", vm.console.text)


def test_a_root_shell_on_the_serial_port_is_all_that_is_needed(lab: Lab, tiny: VmConfig) -> None:
    vm = lab.start(tiny.replace(provision="systemd"), name="tiny")
    assert "init=" not in vm.run("cat /proc/cmdline").stdout
    assert vm.channel == "shell"
    vm.reboot(hard=True, timeout=GENEROUS)
    assert vm.run("echo again").stdout == "again\n"


def test_a_guest_that_cannot_be_reached_says_why(lab: Lab, small: Callable[..., VmConfig]) -> None:
    config = small("hello", channel="auto", ready="channel")
    for limit in LIMITS:
        with pytest.raises(BootTimeout, match="waited for a channel to answer") as timeout:
            lab.start(config.replace(boot_timeout=limit), name="hello")
        notes = "\n".join(timeout.value.__notes__)
        if READY in notes:
            break
    assert "agent: silent (is qemu-guest-agent installed and running?)" in notes
    assert "shell: silent (nobody in the guest opened its port)" in notes
    assert READY in notes
    # Of a copy's ports QEMU tells once more, at some time, how they were when it was frozen.
    vm = lab.start(config.replace(ready=f"console:{READY}", start="cold"), name="hello")
    with pytest.raises(ChannelError, match=r"no channel answered in 0\.5 s: agent: silent .*; shell: silent"):
        vm.loop.run(vm._channels.channel(0.5))


def test_no_channel_at_all_is_a_sentence(lab: Lab, small: Callable[..., VmConfig]) -> None:
    vm = lab.start(small("hello", channel="none"), name="hello")
    with pytest.raises(ChannelError, match="there is no channel to the guest, as channel=none says"):
        vm.run("true")
