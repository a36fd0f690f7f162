"""Measures faults of disks: how long until one is on in a guest that runs, and until its disk is whole again."""

from collections.abc import Callable, Iterator

from benchmarks import guests
from benchmarks.stopwatch import Stopwatch
from benchmarks.table import Table
from pytest_readonly_vm.machine.disk_fault import DiskFault
from pytest_readonly_vm.machine.lab import Lab
from pytest_readonly_vm.machine.virtual_disk import VirtualDisk

RUNS = 20

_FAULTS: dict[str, Callable[[VirtualDisk], DiskFault]] = {
    "errors": lambda disk: disk.error("write", may_be_unused=True),
    "throttled": lambda disk: disk.throttle(iops=100, may_be_unused=True),
    "hangs": lambda disk: disk.hang(may_be_unused=True),
    "bytes corrupted": lambda disk: disk.corrupt(1 << 20, 4096, may_be_unused=True),
}


def tables(runs: int) -> Iterator[Table]:
    """By guest, on its first disk and a further one."""
    for name, guest in guests.both().items():
        watch = Stopwatch()
        with Lab() as lab:
            vm = lab.start(guest.replace(start="clone", no_cache=True, disks="data:64M"), name="guest")
            for number in range(runs + 1):
                watch.next_round()
                for fault, make in _FAULTS.items():
                    for which, disk in vm.disks.items():
                        with watch.timing(f"{which} {fault}"):
                            made = make(disk)
                        with watch.timing(f"{which} {fault} no more"):
                            made.end()
                if not number:  # which warms caches up
                    watch.forget_round()
            vm.close()
        table = Table(f"{name}: faults of disks, put into a clone that runs", "ms")
        for label in watch.labels():
            table.add(label, watch.samples(label))
        yield table
