"""Measures power cuts: what it costs to record a disk, and how long it takes to build a cut and to look at it."""

from collections.abc import Iterator
from contextlib import nullcontext

from benchmarks import guests, processor
from benchmarks.stopwatch import Stopwatch
from benchmarks.table import Table
from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.machine.lab import Lab
from pytest_readonly_vm.machine.vm import VirtualMachine
from tests.guests.tiny_databases import tiny_with_databases

RUNS = 20

_WORK = {
    "32 MiB in pieces of 4 KiB, then a sync": "dd if=/dev/zero of=/data/file bs=4k count=8192 conv=fsync",
    "8 MiB, past the page cache": "dd if=/dev/zero of=/data/file bs=4k count=2048 oflag=direct conv=fsync",
    "100 transactions of SQLite": "cat /root/orders | sqlite3 /data/shop.db",
}
_ORDERS = "PRAGMA synchronous=full; CREATE TABLE orders (number); " + 100 * "INSERT INTO orders VALUES (1);\n"
_RECORDED = ", recorded"
_CLEAN = "rm -f /data/file /data/shop.db && sync"


def tables(runs: int) -> Iterator[Table]:
    """Recording, cuts."""
    guest = tiny_with_databases()
    config = guests.tiny().replace(initrd=guest.initrd, ready="auto", start="clone", no_cache=True, disks="data:256M")
    with Lab() as lab:
        lab.start(config, name="template").close()
        yield from _recording(lab, config, runs)
        yield from _cuts(lab, config, runs)


def _with_data(lab: Lab, config: VmConfig) -> VirtualMachine:
    vm = lab.start(config, name="guest")
    device = vm.disks["data"].guest_path()
    vm.run(f"mkfs.ext4 -q {device} && mkdir /data && mount {device} /data && sync")
    vm.write_text("/root/orders", _ORDERS)
    return vm


def _recording(lab: Lab, config: VmConfig, runs: int) -> Iterator[Table]:
    """On the wall, and what QEMU has had of a processor, which other work on the computer changes little."""
    wall, processors = Stopwatch(), Stopwatch(processor.of_children)
    vm = _with_data(lab, config)
    for number in range(runs + 1):
        wall.next_round()
        processors.next_round()
        for name, work in _WORK.items():
            for is_recorded in (False, True):
                vm.run(_CLEAN)
                recorded = vm.disks["data"].record() if is_recorded else nullcontext()
                label = f"{name}{_RECORDED * is_recorded}"
                with recorded, wall.timing(label), processors.timing(label):
                    vm.run(work, timeout=600)
        if not number:  # which warms caches up
            wall.forget_round()
            processors.forget_round()
    vm.close()
    for watch, what in ((wall, "a guest that writes"), (processors, "QEMU, in time of processors")):
        table = Table(f"tiny Linux: what recording costs {what}", "ms")
        for label in watch.labels():
            table.add(label, watch.samples(label))
        for name in _WORK:
            table.note_minima(name, watch.samples(name + _RECORDED), watch.samples(name))
        yield table


def _cuts(lab: Lab, config: VmConfig, runs: int) -> Iterator[Table]:
    """On the wall, and in time of processors, of this process too."""
    wall, processors = Stopwatch(), Stopwatch(processor.of_all)
    vm = _with_data(lab, config)
    wall.next_round()
    with wall.timing("recording begins"):
        log = vm.disks["data"].record()
    vm.run(_WORK["100 transactions of SQLite"], timeout=600)
    with wall.timing("recording ends"):
        log.end()
    ends = [(label, wall.samples(label)) for label in wall.labels()]
    wall.forget_round()
    for number, cut in enumerate(log.cuts(limit=runs + 1)):
        wall.next_round()
        processors.next_round()
        label = "a cut built"
        with wall.timing(label), processors.timing(label):
            log.disk_of(cut.state).close()
        label = "built, mounted in a fresh copy, judged"
        with wall.timing(label), processors.timing(label), cut.mount() as disk:
            disk.vm.run(["sqlite3", f"{disk.path}/shop.db", "SELECT count(*) FROM sqlite_schema"])
        label = "built, checked by e2fsck on the host"
        with wall.timing(label), processors.timing(label):
            cut.check(["e2fsck", "-fy", cut.PATH])
        if not number:  # which warms caches up, and writes the disk to a file
            wall.forget_round()
            processors.forget_round()
    vm.close()
    what = f"cuts of a recording of {log.writes} writes and {log.flushes} flushes"
    for watch, first, how in ((wall, ends, ""), (processors, [], ", in time of processors")):
        table = Table(f"tiny Linux: {what}{how}", "ms")
        for label, samples in [*first, *((label, watch.samples(label)) for label in watch.labels())]:
            table.add(label, samples)
        yield table
