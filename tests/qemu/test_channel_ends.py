"""Who waits for a command is woken by the end of its guest, over each channel, which comes back with the guest."""

import contextlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from pytest_readonly_vm import ChannelLost, GuestDied, VirtualMachine, VmError
from tests.qemu.channels import GROUPS, machine_of_each
from tests.qemu.waiting import GENEROUS

vm = machine_of_each((*GROUPS, "debian-auto-clone"))

SHORT_BOOT = """
command -v systemctl >/dev/null || exit 0
printf '[Unit]\\nWants=ssh.service systemd-networkd.service\\n' >/etc/systemd/system/short.target
systemctl set-default short.target
"""
"""Of Debian, what a channel needs, and no more: two thirds of the work of a boot."""


def test_a_reboot_under_a_command_wakes_it_and_the_channel_comes_back(vm: VirtualMachine) -> None:
    vm.run(SHORT_BOOT)
    before = vm.boot_id()
    with pytest.raises(ChannelLost) as lost:
        vm.run("sync; (sleep 0.5; reboot -f) >/dev/null 2>&1 & sleep 600", timeout=GENEROUS)
    assert any("sleep 600" in note for note in lost.value.__notes__)
    vm.wait_for_boot(before)
    assert vm.run("echo back").stdout == "back\n"
    assert vm.config.channel in (vm.channel, "auto")


def test_a_death_under_a_command_wakes_it(vm: VirtualMachine) -> None:
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(vm.run, "touch /tmp/runs; sleep 600")
        vm.wait_for_file("/tmp/runs")
        vm.kill()
        with pytest.raises(GuestDied, match="QEMU was killed by SIGKILL"):
            waiting.result(GENEROUS)
    with contextlib.suppress(VmError), pytest.raises(GuestDied):
        vm.run("true")
