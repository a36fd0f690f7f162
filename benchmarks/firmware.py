"""Measures what a firmware costs: the same Debian booted by BIOS, by UEFI and by Secure Boot, and copies of each.

The copies take turns, so that none of them gets all of a slow minute.
"""

from collections.abc import Iterator

from benchmarks import guests
from benchmarks.stopwatch import Stopwatch
from benchmarks.table import Table
from pytest_readonly_vm.machine.lab import Lab

RUNS = 21

_COMMAND = "copy, up to the first command answered"


def tables(runs: int) -> Iterator[Table]:
    """One table of boots and of copies."""
    configs = {name: config.replace(start="clone", no_cache=True) for name, config in guests.firmwares().items()}
    watches = {name: Stopwatch() for name in configs}
    boots = {}
    with Lab() as lab:
        for name, config in configs.items():
            lab.start(config, name=name).close()
            boots[name] = next(boot.seconds for boot in lab.boots if (boot.name, boot.manner) == (name, "boot"))
        for _ in range(runs):
            for name, config in configs.items():
                watches[name].next_round()
                with watches[name].timing(_COMMAND):
                    vm = lab.start(config, name=name)
                    vm.run("true")
                vm.close()
    table = Table("Debian by each firmware", "ms")
    for name, watch in watches.items():
        table.add(f"{name}: {_COMMAND}", watch.samples(_COMMAND))
    told = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in boots.items())
    table.notes.append(f"Boots, one of each: {told}. Copies in turns, of templates in memory.")
    yield table
