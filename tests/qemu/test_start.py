"""What every way of starting a machine promises, and what each promises more."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_readonly_vm import GuestDied, Lab, VirtualMachine, VmConfig, VmError, layer
from tests.guests import ext4, tools
from tests.guests.tiny_linux import tiny_linux
from tests.qemu.conftest import STARTS
from tests.qemu.waiting import GENEROUS, eventually


def tiny(start: str, **settings: object) -> VmConfig:
    guest = tiny_linux()
    files = {"image": guest.disk, "kernel": guest.kernel, "initrd": guest.initrd, "append": guest.append}
    common: dict[str, object] = {"accel": "tcg", "memory": "256M", "boot_timeout": GENEROUS, "no_cache": True}
    return VmConfig().replace(**files, **common | settings, start=start)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


@pytest.fixture(params=STARTS)
def start(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def machine(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Callable[..., VirtualMachine]]:
    machines: list[VirtualMachine] = []

    def one(start: str, **settings: object) -> VirtualMachine:
        machines.append(lab.start(tiny(start, **settings), name=request.node.name))
        return machines[-1]

    yield one
    for vm in machines:
        vm.close()


def row(start: str, length: int) -> range:
    """As many machines one after the other; of those that boot, each as the one before, as few as make a row."""
    return range(min(length, 2) if start == "cold" else length)


def soil(vm: VirtualMachine) -> None:
    vm.run("echo x >/mnt/soiled; echo x >/dev/soiled; sync")


def is_clean(vm: VirtualMachine) -> bool:
    return vm.run("[ -e /mnt/soiled ] || [ -e /dev/soiled ]", check=False).exit_code != 0


class TestEveryStart:
    def test_each_machine_is_pristine_and_ready(self, machine: Callable[..., VirtualMachine], start: str) -> None:
        for _ in row(start, 3):
            vm = machine(start, prove_pristine=True)
            assert is_clean(vm)
            soil(vm)
            vm.close()

    def test_two_at_once_are_independent(self, machine: Callable[..., VirtualMachine], start: str) -> None:
        one, other = machine(start), machine(start)
        soil(one)
        assert is_clean(other)
        assert one.pid != other.pid

    def test_the_clock_is_right_within_a_second(self, machine: Callable[..., VirtualMachine], start: str) -> None:
        if start != "cold":
            machine(start).close()
            time.sleep(1.5)  # for a clock that stands where it was frozen to be wrong
        vm = machine(start)
        # `date` tells whole seconds; a guest that boots reads its clock when it does, in whole seconds as well.
        allowed = 2.5 if start == "cold" else 1.0
        before = time.time()
        told = int(vm.run("date +%s").stdout)
        assert before - 1 - allowed < told < time.time() + allowed

    def test_no_two_machines_have_the_same_random_numbers(
        self, machine: Callable[..., VirtualMachine], start: str
    ) -> None:
        seen = set()
        machines = row(start, 4)
        for _ in machines:
            vm = machine(start)
            seen.add(vm.run("head -c 16 /dev/urandom").stdout_bytes)
            vm.close()
        assert len(seen) == len(machines)

    def test_the_console_remembers_the_boot_and_goes_on(
        self, machine: Callable[..., VirtualMachine], start: str
    ) -> None:
        if start != "cold":
            machine(start).close()
        vm = machine(start)
        vm.console.expect("tiny: ready")
        assert "tiny: ready" in vm.console.text
        vm.run("echo of-now >/dev/ttyS0")
        vm.console.expect("of-now")

    def test_what_a_test_did_to_qemu_does_no_harm_to_the_next(
        self, machine: Callable[..., VirtualMachine], start: str
    ) -> None:
        vm = machine(start)
        vm.forward(22)
        vm.qmp.execute("device_add", {"driver": "virtio-rng-pci", "id": "plugged"})
        vm.pause()
        vm.close()
        vm = machine(start)
        assert vm.run("echo works").stdout == "works\n"
        assert "HOST_FORWARD" not in vm.qmp.execute("human-monitor-command", {"command-line": "info usernet"})

    def test_a_machine_that_died_is_followed_by_a_sound_one(
        self, machine: Callable[..., VirtualMachine], start: str
    ) -> None:
        vm = machine(start)
        vm.kill()
        with pytest.raises(GuestDied):
            vm.run("true")
        vm.close()
        assert machine(start).run("echo works").stdout == "works\n"

    def test_reset_is_a_pristine_machine(self, machine: Callable[..., VirtualMachine], start: str) -> None:
        vm = machine(start)
        soil(vm)
        vm.reset()
        assert is_clean(vm)
        assert vm.run("echo works").stdout == "works\n"
        vm.console.send("\n")
        vm.console.expect("tiny#")

    def test_back_to_a_checkpoint_as_often_as_wanted(self, machine: Callable[..., VirtualMachine], start: str) -> None:
        vm = machine(start)
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
        checkpoint.close()
        with pytest.raises(VmError, match="no checkpoint"):
            vm.restore()
        with pytest.raises(VmError, match="closed or another machine's"):
            vm.restore(checkpoint)

    def test_forks_go_on_from_here_and_apart(self, machine: Callable[..., VirtualMachine], start: str) -> None:
        vm = machine(start)
        vm.run("echo common >/mnt/file; (while :; do sleep 1; done) >/dev/null 2>&1 & echo $! >/root/pid")
        with vm.fork(2) as (one, other):
            assert one.run("cat /mnt/file; kill -0 $(cat /root/pid)").stdout == "common\n"
            soil(one)
            assert is_clean(other)
            assert is_clean(vm)
            [grandchild] = one.fork()
            one.close()
            assert not is_clean(grandchild)
            assert grandchild.run("head -c 16 /dev/urandom").stdout_bytes != (
                other.run("head -c 16 /dev/urandom").stdout_bytes
            )
            grandchild.close()
        assert one.closed
        assert vm.run("cat /mnt/file").stdout == "common\n"

    def test_layers_are_made_in_their_order(self, machine: Callable[..., VirtualMachine], start: str) -> None:
        for _ in range(1 if start == "cold" else 2):
            vm = machine(start, layers=[with_line("a"), with_line("b", times=2)])
            assert vm.run("cat /mnt/lines").stdout == "a\nb\nb\n"
            assert is_clean(vm)
            soil(vm)
            vm.close()
        assert machine(start, layers=with_line("a")).run("cat /mnt/lines").stdout == "a\n"
        assert machine(start).run("[ -e /mnt/lines ]", check=False).exit_code == 1

    def test_an_overlay_is_kept_whole(self, machine: Callable[..., VirtualMachine], start: str, tmp_path: Path) -> None:
        vm = machine(start, snapshot="overlay", keep="always", layers=with_line("a"))
        # It minds no power button.
        vm.run("echo kept >/mnt/kept; umount /mnt; (sleep 0.2; poweroff -f) >/dev/null 2>&1 &")
        eventually(lambda: not vm.is_running(), "the guest has powered off")
        vm.close(keep_overlay_as=tmp_path / "kept.qcow2")
        tools.run(["qemu-img", "convert", "-O", "raw", tmp_path / "kept.qcow2", tmp_path / "raw"])
        tools.run(["e2fsck", "-fn", tmp_path / "raw"])
        for name, content in (("lines", "a\n"), ("kept", "kept\n")):
            assert tools.run(["debugfs", "-R", f"cat /{name}", tmp_path / "raw"]) == content


@layer
def with_line(vm: VirtualMachine, line: str, *, times: int = 1) -> None:
    vm.run(f"for i in $(seq {times}); do echo {line} >>/mnt/lines; done; sync")


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
