"""Each fault of a disk on each interface: the guest meets it, it is counted, and its end undoes it."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_readonly_vm import (
    DiskError,
    DiskFault,
    FaultUnused,
    GuestPaused,
    Lab,
    VirtualMachine,
    VmConfig,
    VmError,
    WaitTimeout,
    layer,
)
from pytest_readonly_vm.disks.filters import is_filter
from tests.accelerator import ACCEL
from tests.conftest import READY
from tests.guests import bootsector
from tests.guests.tiny_disks import tiny_with_disks
from tests.qemu.waiting import GENEROUS
from tests.templates import templates

INTERFACES = ("virtio", "scsi", "ide", "nvme")
"""Those for which the tiny guest's kernel has drivers; for others see `test_a_firmware_meets_errors`."""
PLACE = 5000
"""Of blocks of 4 KiB, one that nothing else reads or writes."""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


@layer
def left_alone(vm: VirtualMachine) -> None:
    """Nobody but the tests asks anything of the disk, however long they take."""
    vm.run("umount /mnt", check=False)


def started(lab: Lab, name: str, **settings: object) -> VirtualMachine:
    guest = tiny_with_disks()
    files = {"image": guest.disk, "kernel": guest.kernel, "initrd": guest.initrd, "append": guest.append}
    common: dict[str, object] = {"accel": ACCEL, "memory": "128M", "boot_timeout": GENEROUS, "cache": templates()}
    common["layers"] = left_alone
    return lab.start(VmConfig().replace(**files, **common | settings), name=name)


@pytest.fixture(scope="module", params=INTERFACES)
def vm(lab: Lab, request: pytest.FixtureRequest) -> Iterator[VirtualMachine]:
    vm = started(lab, request.param, disk_interface=request.param)
    yield vm
    vm.close()


@pytest.fixture(scope="module")
def virtio(lab: Lab) -> Iterator[VirtualMachine]:
    vm = started(lab, "one")
    yield vm
    vm.close()


@pytest.fixture(autouse=True)
def whole(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test nothing is left of its faults, in QEMU either."""
    yield
    name = next((name for name in ("vm", "virtio") if name in request.fixturenames), None)
    if name is not None:
        vm: VirtualMachine = request.getfixturevalue(name)
        assert list(vm.disk.end_test(failed=False)) == []
        assert not [one for one in vm.qmp.execute("query-named-block-nodes") if is_filter(one["node-name"])]
        assert vm.qmp.execute("query-status")["running"]


def disk(vm: VirtualMachine) -> str:
    return {"virtio": "/dev/vda", "nvme": "/dev/nvme0n1"}.get(vm.config.disk_interface, "/dev/sda")


def do(vm: VirtualMachine, kind: str, place: int = PLACE) -> bool:
    """Have the guest do that with its disk; whether it could."""
    words = {
        "read": f"dd if={disk(vm)} of=/dev/null bs=4k count=1 skip={place} iflag=direct",
        "write": f"dd if=/dev/zero of={disk(vm)} bs=4k count=1 seek={place} oflag=direct",
        "flush": f"dd if=/dev/zero of={disk(vm)} bs=4k count=1 seek={place} conv=fsync",
    }
    return vm.run(words[kind], check=False).ok


def behind(vm: VirtualMachine, kind: str) -> Callable[[], bool]:
    """Have the guest do that in the background; a function that tells whether it is done."""
    vm.run(f"rm -f /tmp/done; (dd if={disk(vm)} of=/dev/null bs=4k count=1 skip={PLACE} iflag=direct; echo >/tmp/done) "
           ">/dev/null 2>&1 </dev/null &")  # fmt: skip
    return lambda: vm.run("[ -e /tmp/done ]", check=False).ok


@pytest.mark.parametrize("kind", ["read", "write", "flush"])
def test_requests_fail_and_are_counted(vm: VirtualMachine, kind: str) -> None:
    with vm.disk.error(kind) as fault:  # type: ignore[arg-type]
        assert not do(vm, kind)
        is_nvme_flush = (vm.config.disk_interface, kind) == ("nvme", "flush")  # which QEMU does not count
        assert fault.hits >= 1 or is_nvme_flush
    assert do(vm, kind)
    with vm.disk.error(kind, after=2) as later:  # type: ignore[arg-type]
        assert [do(vm, kind) for _ in range(3)] == [True, True, False]
    assert "after=2" in str(later)


def test_writes_of_a_read_only_disk_fail(vm: VirtualMachine) -> None:
    with vm.disk.read_only() as fault:
        assert do(vm, "read")
        assert not do(vm, "write")
    assert fault.hits
    assert do(vm, "write")


@pytest.mark.parametrize("kind", ["read", "write", "flush"])
def test_the_machine_stands_still_at_an_error_until_the_fault_ends(vm: VirtualMachine, kind: str) -> None:
    if vm.config.disk_interface == "nvme":
        with pytest.raises(DiskError, match="passes each error of an nvme disk on"):
            vm.disk.error(kind, guest="pause")  # type: ignore[arg-type]
        return
    with vm.disk.error(kind, guest="pause") as fault:  # type: ignore[arg-type]
        with pytest.raises(GuestPaused, match=rf"by the fault error\('{kind}', guest='pause'\) of this test"):
            do(vm, kind)
        assert vm.trouble is None
        assert fault.hits
    assert do(vm, kind)


def test_a_disk_hangs_until_the_fault_ends(vm: VirtualMachine) -> None:
    with vm.disk.hang() as fault:
        done = behind(vm, "read")
        vm.run("sleep 0.5")
        assert not done()
    assert fault.hits
    vm.run("while [ ! -e /tmp/done ]; do sleep 0.1; done")


def test_a_disk_is_slow(vm: VirtualMachine) -> None:
    with vm.disk.throttle(iops=1000), vm.disk.throttle(latency="200ms") as fault:
        began = time.monotonic()
        for _ in range(5):
            assert do(vm, "read")
        assert time.monotonic() - began > 3 * 0.2
    assert fault.hits >= 5


def test_bytes_are_damaged_and_what_the_guest_writes_over_them_stays(vm: VirtualMachine) -> None:
    def block(place: int) -> str:
        return vm.run(f"dd if={disk(vm)} bs=4k count=1 skip={place} iflag=direct 2>/dev/null | md5sum").stdout

    assert do(vm, "write", PLACE)
    assert do(vm, "write", PLACE + 1)
    zeros = block(PLACE)
    with vm.disk.corrupt(4096 * PLACE + 100, 4096):
        assert zeros != block(PLACE) != block(PLACE + 1) != zeros
        vm.run(f"yes | dd of={disk(vm)} bs=4k count=1 seek={PLACE + 1} oflag=direct iflag=fullblock 2>/dev/null")
        written = block(PLACE + 1)
    assert block(PLACE) == zeros
    assert block(PLACE + 1) == written


def test_a_full_host_is_told_from_a_fault(virtio: VirtualMachine) -> None:
    with virtio.disk.full() as fault:
        with pytest.raises(GuestPaused, match=r"disk0 cannot be written, by the fault full\(\) of this test"):
            do(virtio, "write")
        assert virtio.qmp.execute("query-status")["status"] == "io-error"
    assert fault.hits == 1


def test_only_some_sectors_fail_and_only_once(virtio: VirtualMachine) -> None:
    with virtio.disk.error("read", sector=range(8 * PLACE, 8 * PLACE + 3)) as some:
        assert do(virtio, "read", PLACE + 1)
        assert not do(virtio, "read", PLACE)
    assert some.hits == 1
    with virtio.disk.error("write", once=True):
        assert [do(virtio, "write"), do(virtio, "write")] == [False, True]


def test_faults_end_in_any_order(virtio: VirtualMachine) -> None:
    faults: list[DiskFault] = [
        virtio.disk.error("read"),
        virtio.disk.hang(may_be_unused=True),
        virtio.disk.error("write", after=1),
        virtio.disk.throttle(bandwidth="1M", may_be_unused=True),
        virtio.disk.error("flush"),
    ]
    faults[1].end()
    assert not do(virtio, "flush")
    faults[4].end()
    assert not do(virtio, "read")
    faults[0].end()
    assert do(virtio, "read")
    assert not do(virtio, "write")
    faults[2].end()
    faults[3].end()
    assert all(do(virtio, kind) for kind in ("read", "write", "flush"))


def test_a_fault_that_has_met_nothing_is_an_error(virtio: VirtualMachine) -> None:
    with pytest.raises(FaultUnused, match=r"one: disk0: error\('write', sector=7\): the guest has asked nothing such"):
        virtio.disk.error("write", sector=7).end()
    virtio.disk.error("write", sector=7, may_be_unused=True).end()
    with pytest.raises(ZeroDivisionError), virtio.disk.error("write"):
        _ = 1 / 0
    with pytest.raises(FaultUnused, match="what it has in its memory"):
        virtio.disk.corrupt(4096, 512).end()


def test_machines_that_are_made_anew_have_no_fault(lab: Lab) -> None:
    vm = started(lab, "anew")
    fault = vm.disk.full()
    with pytest.raises(GuestPaused):
        do(vm, "write")
    checkpoint = vm.checkpoint()
    vm.restore(checkpoint)
    assert (fault.is_on, fault.hits) == (False, 1)
    vm.resume()
    assert do(vm, "write")
    fault.end()
    with vm.disk.full():
        with pytest.raises(GuestPaused):
            do(vm, "write")
        vm.checkpoint().close()  # after which its state has another name
    assert do(vm, "write")

    reading = vm.disk.error("read")
    assert not do(vm, "read")
    [fork] = vm.fork()
    assert do(fork, "read")
    fork.close()
    assert not do(vm, "read")
    vm.reset()
    assert do(vm, "read")
    reading.end()
    assert reading.hits >= 2  # as the kernel reads, too
    unused = vm.disk.error("read")
    vm.reset()
    with pytest.raises(FaultUnused):
        unused.end()

    hanging, failing = vm.disk.hang(may_be_unused=True), vm.disk.error("read", may_be_unused=True)
    vm.kill()
    hanging.end()
    failing.end()
    vm.close()


@pytest.mark.parametrize("start", ["cold", "clone"])
@pytest.mark.parametrize("interface", ["sata", "usb"])
def test_a_firmware_meets_errors(lab: Lab, tmp_path: Path, interface: str, start: str) -> None:
    """On interfaces for which the tiny guest's kernel has no driver."""
    image = bootsector.write_image(tmp_path / "disk.img", bootsector.uses_disk(READY))
    settings: dict[str, object] = {"image": image, "memory": "16M", "accel": ACCEL, "ready": f"console:{READY}"}
    settings |= {"disk_interface": interface, "start": start, "no_cache": True, "boot_timeout": GENEROUS}
    vm = lab.start(VmConfig().replace(**settings), name=interface)

    assert vm.manner == {"cold": "boot", "clone": "clone"}[start]

    def does(letter: str) -> str:
        vm.console.send(letter)
        return vm.console.expect("done|error", timeout=GENEROUS)[0]

    for kind, letter in (("read", "r"), ("write", "w")):
        with vm.disk.error(kind) as fault:  # type: ignore[arg-type]
            assert does(letter) == "error"
        assert fault.hits
        assert does(letter) == "done"
    with vm.disk.full() as full:
        vm.console.send("w")
        with pytest.raises(GuestPaused, match="by the fault full"):
            vm.console.expect("done|error", timeout=GENEROUS)
    assert vm.console.expect("done|error", timeout=GENEROUS)[0] == "done"
    assert full.hits
    with vm.disk.read_only():
        assert does("w") == "error"
    with vm.disk.throttle(bandwidth="1M"), vm.disk.corrupt(0, 512):
        assert does("r") == "done"
    with vm.disk.hang():
        vm.console.send("r")
        with pytest.raises(WaitTimeout):
            vm.console.expect("done|error", timeout=0.5)
    assert vm.console.expect("done|error", timeout=GENEROUS)[0] in ("done", "error")  # of which the firmware gave up
    if start == "clone":
        failing = vm.disk.error("read")
        vm.reset()
        assert does("r") == "done"
        with pytest.raises(FaultUnused):
            failing.end()
    vm.close()


@pytest.mark.parametrize("interface", ["virtio", "scsi"])
def test_a_disk_is_taken_out_and_put_back_as_it_was(lab: Lab, interface: str) -> None:
    vm = started(lab, f"out-{interface}", disks=f"data:1M,interface={interface}", disk_interface="virtio")
    data = vm.disks["data"]
    vm.run(f"echo kept | dd of={data.guest_path()} bs=512 conv=sync,fsync")
    with data.error("write", may_be_unused=True):  # which is above it when it comes back
        with data.unplug():
            with pytest.raises(VmError, match="the guest has no disk with the serial number data"):
                data.guest_path()
            with pytest.raises(VmError, match="the disk data is taken out; plug it in first"):
                vm.checkpoint()
            with pytest.raises(DiskError, match="it is taken out already"):
                data.unplug()
        assert not vm.run(f"dd if=/dev/zero of={data.guest_path()} bs=4k count=1 oflag=direct", check=False).ok
    assert vm.run(f"head -c 4 {data.guest_path()}").stdout == "kept"
    with vm.checkpoint():  # whose copies have it where it is
        out = data.unplug()
        data.plug()
        assert not out.is_on
        vm.run(f"dd if=/dev/zero of={data.guest_path()} bs=4k count=1 oflag=direct")
    assert vm.run(f"head -c 4 {data.guest_path()}").stdout == "kept"
    data.unplug()
    vm.reset()
    assert data.guest_path()
    with pytest.raises(DiskError, match="it has not been taken out"):
        data.plug()
    vm.close()


def test_a_disk_that_cannot_be_taken_out_stays(lab: Lab) -> None:
    vm = started(lab, "in", disk_interface="ide")
    with pytest.raises(DiskError, match=r"disk0: unplug.*does not support hotplugging.*interface=scsi"):
        vm.disk.unplug()
    assert do(vm, "write")
    vm.close()


def test_what_cannot_be_is_refused(virtio: VirtualMachine) -> None:
    with pytest.raises(DiskError, match="the disk has 67108864 bytes"):
        virtio.disk.corrupt(64 << 20, 1)
    with pytest.raises(DiskError, match="'seek' is none of 'read', 'write', 'flush'"):
        virtio.disk.error("seek")  # type: ignore[arg-type]
