"""What every way of starting a machine promises, and what each promises more."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_readonly_vm import ConsolePattern, GuestDied, Lab, VirtualMachine, VmConfig, VmError, layer
from tests.accelerator import ACCEL
from tests.guests import ext4, tools
from tests.guests.tiny_linux import tiny_linux
from tests.qemu.conftest import STARTS
from tests.qemu.waiting import GENEROUS, eventually
from tests.templates import templates


def tiny(start: str, **settings: object) -> VmConfig:
    guest = tiny_linux()
    files = {"image": guest.disk, "kernel": guest.kernel, "initrd": guest.initrd, "append": guest.append}
    common: dict[str, object] = {"accel": ACCEL, "memory": "128M", "boot_timeout": GENEROUS, "cache": templates()}
    return VmConfig().replace(**files, **common | settings, start=start)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


@pytest.fixture(scope="module", params=STARTS)
def start(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def vm(lab: Lab, start: str) -> Iterator[VirtualMachine]:
    """A machine for all tests that leave it clean."""
    vm = lab.start(tiny(start), name=start)
    yield vm
    vm.close()


@pytest.fixture
def machine(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Callable[..., VirtualMachine]]:
    machines: list[VirtualMachine] = []

    def one(start: str, **settings: object) -> VirtualMachine:
        machines.append(lab.start(tiny(start, **settings), name=request.node.name))
        return machines[-1]

    yield one
    for vm in machines:
        vm.close()


def soil(vm: VirtualMachine) -> None:
    vm.run("echo x >/mnt/soiled; echo x >/dev/soiled; sync")


def is_clean(vm: VirtualMachine) -> bool:
    return vm.run("[ -e /mnt/soiled ] || [ -e /dev/soiled ]", check=False).exit_code != 0


def tamper(vm: VirtualMachine) -> None:
    """Do to the guest and to QEMU what the next machine is to know nothing of."""
    soil(vm)
    vm.forward(22)
    vm.qmp.execute("device_add", {"driver": "virtio-rng-pci", "id": "plugged"})
    vm.pause()


def kill(vm: VirtualMachine) -> None:
    vm.kill()
    with pytest.raises(GuestDied):
        vm.run("true")


class TestEveryStart:
    def test_each_machine_is_pristine_and_ready_whatever_befell_the_others(
        self, vm: VirtualMachine, machine: Callable[..., VirtualMachine], start: str
    ) -> None:
        numbers, processes = {random_number(vm)}, {vm.pid}
        befalls = (tamper, kill, soil) if start == "clone" else (tamper,)  # a boot takes its time
        for befall in befalls:
            one = machine(start, prove_pristine=True)
            assert is_clean(one)
            assert one.run("echo works").stdout == "works\n"
            assert "HOST_FORWARD" not in one.qmp.execute("human-monitor-command", {"command-line": "info usernet"})
            numbers.add(random_number(one))
            processes.add(one.pid)
            befall(one)
            assert is_clean(vm)  # which is there at the same time
            one.close()
        assert len(numbers) == len(processes) == 1 + len(befalls)

    def test_the_clock_is_right_within_a_second(
        self, vm: VirtualMachine, machine: Callable[..., VirtualMachine], start: str
    ) -> None:
        if start != "cold":
            time.sleep(1.5)  # for a clock that stands where it was frozen to be wrong
            vm = machine(start)
        # `date` tells whole seconds; a guest that boots reads its clock when it does, in whole seconds as well. Then it
        # measures how fast that goes, which on a busy computer it may get wrong.
        allowed = 2.5 + vm.boot_seconds if start == "cold" else 1.0
        before = time.time()
        told = int(vm.run("date +%s").stdout)
        assert before - 1 - allowed < told < time.time() + allowed

    def test_the_console_remembers_the_boot_and_goes_on(self, vm: VirtualMachine) -> None:
        vm.console.expect("tiny: ready")
        assert "tiny: ready" in vm.console.text
        vm.run("echo of-now >/dev/ttyS0")
        vm.console.expect("of-now")

    def test_reset_is_a_pristine_machine(self, vm: VirtualMachine) -> None:
        soil(vm)
        vm.reset()
        assert is_clean(vm)
        assert vm.run("echo works").stdout == "works\n"
        vm.console.send("\n")
        vm.console.expect("tiny#")

    def test_back_to_a_checkpoint_as_often_as_wanted(self, vm: VirtualMachine) -> None:
        vm.run("echo kept >/mnt/kept; echo kept >/dev/kept")
        checkpoint = vm.checkpoint()
        for _ in range(2):
            soil(vm)
            vm.restore(checkpoint)
            assert is_clean(vm)
            assert vm.run("cat /mnt/kept /dev/kept").stdout == "kept\nkept\n"
        with vm.checkpoint():
            soil(vm)
        assert is_clean(vm)
        vm.pause()
        before = time.monotonic()
        vm.checkpoint().close()  # of a guest that cannot be asked for anything
        assert time.monotonic() - before < 8
        vm.resume()
        checkpoint.close()
        with pytest.raises(VmError, match="no checkpoint"):
            vm.restore()
        with pytest.raises(VmError, match="closed, or of something else"):
            vm.restore(checkpoint)

    def test_forks_go_on_from_here_and_apart(self, vm: VirtualMachine) -> None:
        vm.run("echo common >/mnt/file; (while :; do sleep 1; done) >/dev/null 2>&1 & echo $! >/root/pid")
        with vm.fork(2) as (one, other):
            assert one.run("cat /mnt/file; kill -0 $(cat /root/pid)").stdout == "common\n"
            soil(one)
            assert is_clean(other)
            assert is_clean(vm)
            [grandchild] = one.fork()
            one.close()
            assert not is_clean(grandchild)
            assert random_number(grandchild) != random_number(other)
            grandchild.close()
        assert one.closed
        assert vm.run("cat /mnt/file").stdout == "common\n"

    def test_an_overlay_is_kept_whole(self, machine: Callable[..., VirtualMachine], start: str, tmp_path: Path) -> None:
        vm = machine(start, snapshot="overlay", keep="always", layers=LAYERS)
        # It minds no power button.
        vm.run("echo kept >/mnt/kept; umount /mnt")
        vm.console.send("poweroff -f\n")  # by the console's shell, as a channel's has no time to tell its end
        eventually(lambda: not vm.is_running(), "the guest has powered off")
        vm.close(keep_overlay_as=tmp_path / "kept.qcow2")
        tools.run(["qemu-img", "convert", "-O", "raw", tmp_path / "kept.qcow2", tmp_path / "raw"])
        tools.run(["e2fsck", "-fn", tmp_path / "raw"])
        for name, content in (("lines", "a\nb\nb\n"), ("kept", "kept\n")):
            assert tools.run(["debugfs", "-R", f"cat /{name}", tmp_path / "raw"]) == content


def test_a_copy_of_a_guest_that_had_no_channel_is_set_right_before_its_first_command(
    machine: Callable[..., VirtualMachine],
) -> None:
    ready = ConsolePattern("tiny: ready")
    machine("clone", ready=ready)
    time.sleep(1.5)  # for a clock that stands where it was frozen to be wrong
    vm = machine("clone", ready=ready)
    assert vm.channel is None
    before = time.time()
    assert before - 1 < int(vm.run("date +%s").stdout) < time.time() + 1


def random_number(vm: VirtualMachine) -> bytes:
    return vm.run("head -c 16 /dev/urandom").stdout_bytes


@layer
def with_line(vm: VirtualMachine, line: str, *, times: int = 1) -> None:
    vm.run(f"for i in $(seq {times}); do echo {line} >>/mnt/lines; done; sync")


LAYERS = [with_line("a"), with_line("b", times=2)]


def test_layers_are_made_in_their_order_and_for_who_wants_them(machine: Callable[..., VirtualMachine]) -> None:
    for layers, lines in ((LAYERS, "a\nb\nb\n"), (LAYERS, "a\nb\nb\n"), (LAYERS[:1], "a\n"), ([], "")):
        vm = machine("clone", layers=layers)
        assert vm.run("cat /mnt/lines", check=False).stdout == lines
        assert is_clean(vm)
        soil(vm)
        vm.close()


def test_the_proof_looks_at_the_disk_and_not_at_what_the_guest_remembers_of_it(
    machine: Callable[..., VirtualMachine], tmp_path: Path
) -> None:
    vm = machine("clone", prove_pristine=True)
    disk = vm.folder / "second"
    tools.run(ext4.mke2fs(str(disk), size=16 << 20, label="SECOND", uuid="a0e9a3f5-0000-4000-8000-00000000a0e9"))
    file = {"driver": "file", "filename": str(disk)}
    vm.qmp.execute("blockdev-add", {"driver": "raw", "node-name": "second", "file": file})
    vm.qmp.execute("device_add", driver="virtio-blk-pci", drive="second")
    eventually(lambda: vm.run("[ -e /dev/vdb ]", check=False).exit_code == 0, "the guest has the disk")
    vm.run("mkdir '/mnt/a disk'; mount -t ext4 /dev/vdb '/mnt/a disk'; ls '/mnt/a disk'; rm /run/.readonly-vm-mark")
    vm.run("rm -f /dev/shm/.readonly-vm-mark /tmp/.readonly-vm-mark /var/tmp/.readonly-vm-mark /mnt/.readonly-vm-mark")
    (tmp_path / "mark").write_text("another machine\n")
    tools.run(["debugfs", "-w", "-R", f"write {tmp_path}/mark .readonly-vm-mark", disk])
    with pytest.raises(VmError, match="is not pristine: it has the mark of "):
        vm.prove_pristine()
