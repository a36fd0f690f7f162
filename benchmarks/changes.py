"""Measures `vm.diff()` on a Debian: all of it, for how long the guest stands still, and the guest's own part."""

import time
from collections.abc import Iterator

from benchmarks import guests
from benchmarks.samples import Samples
from benchmarks.table import Table
from pytest_readonly_vm.machine.lab import Lab
from pytest_readonly_vm.machine.vm import VirtualMachine

RUNS = 20

_FEW = "echo one >>/etc/motd; chmod 600 /etc/passwd; mkdir /srv/new; rm /etc/issue"
_MANY = "mkdir /srv/many; cd /srv/many; for n in $(seq 1500); do echo $n >$n; done"
_FIRST, _FEW_CHANGES, _MANY_CHANGES = "the first of a template, once", "4 changes", "1,504 changes"
_STILL, _SYNC, _FIND = (
    "... of it the guest stands still",
    "... the guest's `sync`, and its mounts",
    "`find` in the guest",
)


def tables(runs: int) -> Iterator[Table]:
    """One table: one machine, asked again and again."""
    table = Table("Debian: what has changed on the disk", "ms")
    times: dict[str, list[float]] = {}
    with Lab() as lab:
        vm = lab.start(guests.full().replace(start="clone", no_cache=True), name="changed")
        times[_FIRST] = [_timed(vm.diff)]
        for what, command in ((_FEW_CHANGES, _FEW), (_MANY_CHANGES, _MANY)):
            vm.run(command)
            vm.diff()
            parts = {part: times.setdefault(f"{what}: {part}" if part else what, []) for part in ("", _STILL, _SYNC)}
            for _ in range(runs):
                parts[""].append(_timed(vm.diff))
                parts[_STILL].append(_stood_still(vm))
                parts[_SYNC].append(_timed(lambda: vm.run("sync; cat /proc/self/mountinfo")))
        find = times.setdefault(_FIND, [])
        for _ in range(max(runs // 4, 1)):
            find.append(_timed(lambda: vm.run("find / -xdev -printf '%i %m %U %G %s %n %C@ %p\\n' | wc -l")))
    for what, found in times.items():
        table.add(what, Samples(tuple(found)))
    yield table


def _timed(work: object) -> float:
    begun = time.perf_counter()
    assert callable(work)
    work()
    return time.perf_counter() - begun


def _stood_still(vm: VirtualMachine) -> float:
    """For how long it did at the last time."""
    events = [event for event in vm.qmp.events if event.name in ("STOP", "RESUME")]
    return events[-1].time - events[-2].time
