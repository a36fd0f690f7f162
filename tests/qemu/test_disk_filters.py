"""Filters come between a running guest's disk and its image, and out again in any order, while the guest writes."""

import random
from collections.abc import Iterator

import pytest

from pytest_readonly_vm import Lab, VirtualMachine, VmConfig
from pytest_readonly_vm.config.disk import DISK
from pytest_readonly_vm.disks.filters import Filter, Filters, block_device, is_filter
from pytest_readonly_vm.errors import QmpError
from tests.accelerator import ACCEL
from tests.guests import tiny_linux
from tests.qemu.waiting import GENEROUS
from tests.templates import templates

WRITER = """
(for i in $(seq 30); do dd if=/dev/zero of=/mnt/x bs=64k count=4 conv=fsync 2>/dev/null || exit 1; done; echo all) \\
    > /tmp/written 2>&1 &
echo $! > /tmp/writer
"""
ANY = random.Random(15)


@pytest.fixture(scope="module")
def vm() -> Iterator[VirtualMachine]:
    guest = tiny_linux()
    files = {"image": guest.disk, "kernel": guest.kernel, "initrd": guest.initrd, "append": guest.append}
    common: dict[str, object] = {"accel": ACCEL, "memory": "128M", "boot_timeout": GENEROUS, "cache": templates()}
    with Lab() as lab:
        vm = lab.start(VmConfig().replace(**files, **common), name="disk")
        yield vm
        vm.close()


def now(vm: VirtualMachine) -> str:
    [disk] = [one for one in vm.qmp.execute("query-block") if one.get("inserted") and one["device"] == DISK]
    return str(disk["inserted"]["node-name"])


@pytest.fixture
def filters(vm: VirtualMachine) -> Iterator[Filters]:
    first = now(vm)
    filters = vm.disk.filters
    yield filters
    for one in filters.all:
        vm.loop.run(filters.remove(one))
    assert now(vm) == first
    assert not [node for node in vm.qmp.execute("query-named-block-nodes") if is_filter(node["node-name"])]


def test_filters_go_in_any_order_while_the_guest_writes(vm: VirtualMachine, filters: Filters) -> None:
    vm.run(WRITER)
    present: list[Filter] = []
    for turn in range(40):
        if len(present) > 4 or (present and ANY.random() < 0.5):
            vm.loop.run(filters.remove(present.pop(ANY.randrange(len(present)))))
        else:
            options = ANY.choice(({"driver": "raw"}, {"driver": "copy-on-read"}))
            present.append(vm.loop.run(filters.insert(options)))
        assert filters.all == tuple(present), turn
        assert is_filter(now(vm)) == bool(present)
    assert vm.run("while [ -d /proc/$(cat /tmp/writer) ]; do sleep 0.1; done; cat /tmp/written").stdout == "all\n"


def test_those_above_keep_what_they_have_counted(vm: VirtualMachine, filters: Filters) -> None:
    """A rule that is used up stays so when what is below it is taken out."""
    below = vm.loop.run(filters.insert({"driver": "raw"}))
    rules = [{"event": "none", "iotype": "flush", "errno": 5, "once": True}]
    above = vm.loop.run(filters.insert({"driver": "blkdebug", "inject-error": rules}, child="image"))
    flush = "dd if=/dev/vda of=/dev/vda bs=4k count=1 conv=notrunc,fsync 2>/dev/null"
    assert vm.run(flush, check=False).exit_code
    vm.loop.run(filters.remove(below))
    vm.run(flush)
    vm.loop.run(filters.remove(above))


def test_what_qemu_refuses_leaves_all_as_it_was(vm: VirtualMachine, filters: Filters) -> None:
    with pytest.raises(QmpError, match="nothing-such"):
        vm.loop.run(filters.insert({"driver": "throttle", "throttle-group": "nothing-such"}))
    assert not filters.all
    assert vm.loop.run(block_device(vm.instance.qmp, "nothing")) is None
