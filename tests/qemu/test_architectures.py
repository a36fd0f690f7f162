"""Guests of other architectures under TCG: one boot each, and copies, of which all is held that is of those of x86.

That of aarch64 has the guest agent and sshd as well. The other architectures are tried once, from boot to command.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_readonly_vm import ConfigurationError, GuestPanicked, Lab, QmpError, VirtualMachine, VmConfig, VmError
from pytest_readonly_vm.evidence.collect import collect
from tests.guests.archive import host_release
from tests.guests.tiny_linux import TinyLinux, tiny_linux
from tests.guests.tiny_servers import tiny_with_servers
from tests.network.card_life import live
from tests.qemu.waiting import GENEROUS, eventually
from tests.templates import templates

pytestmark = pytest.mark.skipif(
    host_release()[0] != "debian", reason="Ubuntu's archive has no packages for other architectures than the host's"
)

GROUPS = ("aarch64-shell", "aarch64-agent", "riscv64-shell")
OTHERS = {"arm": "armv7l", "ppc64": "ppc64le", "s390x": "s390x"}
"""By what Linux calls them."""


def guest(arch: str) -> TinyLinux:
    return tiny_with_servers(arch) if arch == "aarch64" else tiny_linux(arch)


def config(arch: str, **settings: object) -> VmConfig:
    """Nothing in it names the architecture: the kernel does."""
    files = guest(arch)
    named = {"image": files.disk, "kernel": files.kernel, "initrd": files.initrd, "append": files.append}
    common = {"memory": "256M", "accel": "tcg", "boot_timeout": 300, "start": "clone", "cache": templates()}
    return VmConfig().replace(**named | common | settings)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


@pytest.fixture
def start(lab: Lab) -> Iterator[Callable[..., VirtualMachine]]:
    machines: list[VirtualMachine] = []

    def one(group: str, **settings: object) -> VirtualMachine:
        arch, _, channel = group.partition("-")
        vm = lab.start(config(arch, **settings), name=group)
        machines.append(vm)
        if channel:
            vm.loop.run(vm._channels.channel(GENEROUS, only=channel))
        return vm

    yield one
    for vm in machines:
        vm.close()


@pytest.fixture(params=GROUPS)
def vm(request: pytest.FixtureRequest, start: Callable[..., VirtualMachine]) -> VirtualMachine:
    return start(request.param)


def test_commands_run(vm: VirtualMachine) -> None:
    assert vm.manner == "clone"
    assert vm.run("uname -m").stdout == f"{vm.name.partition('-')[0]}\n"
    failed = vm.run("echo out; echo err >&2; exit 3", check=False)
    assert (failed.stdout, failed.stderr, failed.exit_code) == ("out\n", "err\n", 3)
    assert vm.channel == vm.name.partition("-")[2]


def test_files_go_in_and_out(vm: VirtualMachine, tmp_path: Path) -> None:
    content = os.urandom(300_000)
    (tmp_path / "sent").write_bytes(content)
    vm.push(tmp_path / "sent", "/tmp/file")
    assert vm.run("sha256sum /tmp/file").stdout.startswith(hashlib.sha256(content).hexdigest())
    vm.pull("/tmp/file", tmp_path / "received")
    assert (tmp_path / "received").read_bytes() == content


def test_a_copy_has_the_time_and_random_numbers_of_its_own(
    vm: VirtualMachine, start: Callable[..., VirtualMachine]
) -> None:
    before = int(time.time())
    other = start(vm.name)
    seconds = int(other.run("date +%s").stdout)
    assert before <= seconds <= time.time() + 2  # what was the time when the copy was told may be long ago
    numbers = [one.run("head -c 16 /dev/urandom | md5sum").stdout for one in (vm, other)]
    assert numbers[0] != numbers[1]


def test_states_are_gone_back_to_and_gone_on_from(vm: VirtualMachine) -> None:
    def write(text: str) -> None:
        vm.run(f"echo {text} >/tmp/ram; echo {text} >/mnt/disk; sync")

    def read(one: VirtualMachine) -> list[str]:
        return one.run("cat /tmp/ram /mnt/disk 2>/dev/null || :").stdout.split()

    write("first")
    checkpoint = vm.checkpoint()
    write("second")
    with vm.fork() as (fork,):
        vm.restore(checkpoint)
        assert read(vm) == ["first", "first"]
        assert read(fork) == ["second", "second"]
    vm.reset()
    assert read(vm) == []


def test_a_panic_is_told_at_once_and_is_in_the_evidence(vm: VirtualMachine, tmp_path: Path) -> None:
    with pytest.raises(GuestPanicked, match="the guest's kernel panicked: sysrq triggered crash"):
        vm.run("echo c >/proc/sysrq-trigger; sleep 60", timeout=GENEROUS)
    evidence = collect(vm, tmp_path, about={"test": "the test"})
    assert "console.txt" in {path.name for path in evidence.saved}
    assert "Kernel panic - not syncing: sysrq triggered crash" in (tmp_path / "console.txt").read_text()
    assert f" {vm.name.partition('-')[0]}, tcg" in (tmp_path / "overview.txt").read_text()


def test_a_guest_is_asked_for_evidence(vm: VirtualMachine, tmp_path: Path) -> None:
    vm.run("echo 'said in the test' >/dev/kmsg")
    evidence = collect(vm, tmp_path, about={"test": "the test"})
    assert "said in the test" in (tmp_path / "kernel.txt").read_text()
    assert list(evidence.missing) == ["screenshot.png"]  # of a machine that has no display


@pytest.mark.parametrize("arch", ["aarch64", "riscv64"])
def test_the_base_is_sealed(arch: str, start: Callable[..., VirtualMachine], tmp_path: Path) -> None:
    base = Path(shutil.copy(guest(arch).disk, tmp_path / "base.qcow2"))
    before = hashlib.sha256(base.read_bytes()).digest()
    vm = start(arch, image=base, ready="none", channel="none", start="cold")
    attacks: dict[str, dict[str, Any]] = {
        "pmemsave": {"val": 0, "size": 4096, "filename": str(base)},
        "human-monitor-command": {"command-line": "commit all"},
        "blockdev-add": {"driver": "qcow2", "node-name": "n", "file": {"driver": "file", "filename": str(base)}},
    }
    for command, arguments in attacks.items():
        try:
            answer = vm.qmp.execute(command, **arguments)
        except QmpError as error:
            answer = str(error)
        assert "Permission denied" in str(answer) or "Failed to get" in str(answer)
    vm.close()
    assert hashlib.sha256(base.read_bytes()).digest() == before


@pytest.mark.parametrize("arch", ["aarch64", "riscv64"])
def test_the_reset_button_boots_it_again(arch: str, start: Callable[..., VirtualMachine]) -> None:
    vm = start(arch)
    before = vm.boot_id()
    vm.reboot(hard=True, timeout=240)
    assert vm.boot_id() != before


@pytest.mark.parametrize("cpu", ["rv64", "rv64,sstc=off"], ids=["its own timer", "the board's timer"])
def test_what_a_riscv_sleeps_for_comes_in_its_copies_as_well(cpu: str, start: Callable[..., VirtualMachine]) -> None:
    # One of two processors boots, whichever is the first.
    append = f"{guest('riscv64').append} maxcpus=1"
    vm = start("riscv64-shell", cpu_model=cpu, cpus=2, append=append, start="cold")
    vm.run("(while :; do usleep 50000; done) >/dev/null 2>&1 &")
    for _ in range(2):
        with vm.fork(3) as copies:
            for copy in copies:
                copy.run("usleep 100000", timeout=GENEROUS)


def test_ssh_reaches_it(start: Callable[..., VirtualMachine]) -> None:
    vm = start("aarch64", channel="ssh", start="cold")
    assert vm.run("uname -m").stdout == "aarch64\n"
    vm.write_bytes("/tmp/file", bytes(range(256)))
    assert vm.read_bytes("/tmp/file") == bytes(range(256))


@pytest.mark.parametrize("arch", OTHERS)
@pytest.mark.filterwarnings("ignore:.*random numbers could not be reseeded:pytest_readonly_vm.GuestWarning")
def test_others_boot_answer_and_are_copied(arch: str, start: Callable[..., VirtualMachine]) -> None:
    vm = start(f"{arch}-shell")
    assert vm.manner == "clone"
    assert vm.run("uname -m; ls /mnt").stdout == f"{OTHERS[arch]}\nlost+found\n"


def test_a_board_without_a_power_button_says_so(start: Callable[..., VirtualMachine]) -> None:
    vm = start("riscv64-shell")
    with pytest.raises(VmError, match="riscv64 machines have no power button; have the guest run poweroff instead"):
        vm.powerdown()
    vm.console.send("poweroff -f\n")
    eventually(lambda: not vm.is_running(), "the end of the guest")


def test_what_is_for_another_emulator_is_refused_before_it_is_started(lab: Lab) -> None:
    with pytest.raises(
        ConfigurationError, match=r"kernel .* is for aarch64, as its header says, and qemu-system-x86_64"
    ):
        lab.start(config("aarch64", qemu="qemu-system-x86_64"), name="wrong")
    with pytest.raises(
        ConfigurationError, match=r"disk_interface=ide is none of those .* virtio, scsi, sata, nvme, usb"
    ):
        lab.start(config("aarch64", disk_interface="ide"), name="wrong")


@pytest.mark.parametrize("arch", ["aarch64", "riscv64", "s390x"])
@pytest.mark.filterwarnings("ignore:.*random numbers could not be reseeded:pytest_readonly_vm.GuestWarning")
def test_cards_on_private_networks_come_and_go(arch: str, lab: Lab) -> None:
    live(lab, config(arch), unplugs=arch != "riscv64")  # of which Debian's kernel lets go of none


@pytest.mark.filterwarnings("ignore:.*random numbers could not be reseeded:pytest_readonly_vm.GuestWarning")
def test_copies_of_a_s390x_miss_no_interrupt(lab: Lab) -> None:
    vm = lab.start(config("s390x"), name="busy")
    try:
        vm.run("for n in 1 2 3; do (while :; do dd if=/dev/vda of=/dev/null count=9 iflag=direct; done) 2>&- & done")
        for _ in range(5):
            with vm.fork() as (copy,):
                copy.run("dd if=/dev/vda of=/dev/null count=9 iflag=direct")
        vm.qmp.execute("stop")
        vm.qmp.execute("system_powerdown")  # of which the guest is told by an interrupt, once it runs
        vm.qmp.wait_event("POWERDOWN", timeout=GENEROUS)
        with pytest.raises(VmError, match=r"busy: .* an interrupt is pending in the guest, which QEMU does not save"):
            vm.checkpoint()
    finally:
        vm.close()
