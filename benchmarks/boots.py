"""Measures how long each guest of the tests boots, from `Lab.start` to the ready machine, and how long it ends.

A cheaper guest is booted more often. The guests take turns, so that none of them gets all of a slow minute.
"""

from collections.abc import Iterator

from benchmarks import guests
from benchmarks.stopwatch import Stopwatch
from benchmarks.table import Table
from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.machine.lab import Lab

RUNS = 20

_BOOTS_A_ROUND = {"boot sector": 5, "tiny Linux": 2, "Debian": 1}


def tables(runs: int) -> Iterator[Table]:
    """One table of boots and ends."""
    with guests.boot_sector() as sector, Lab() as lab:
        configs = {"boot sector": sector, "tiny Linux": guests.tiny(), "Debian": guests.full()}
        watches = {name: Stopwatch() for name in configs}
        for name, config in configs.items():
            _boot(lab, name, config, watches[name])
            watches[name].forget_round()  # with what a run does once
        for _ in range(runs):
            for name, config in configs.items():
                for _ in range(_BOOTS_A_ROUND[name]):
                    _boot(lab, name, config, watches[name])
    table = Table("boot of each guest under TCG, and its end", "s")
    for what in ("ready", "closed"):
        for name, watch in watches.items():
            table.add(f"{name}: {what}", watch.samples(what))
    yield table


def _boot(lab: Lab, name: str, config: VmConfig, watch: Stopwatch) -> None:
    watch.next_round()
    with watch.timing("ready"):
        vm = lab.start(config, name=name)
    with watch.timing("closed"):
        vm.close()
