"""Measures where the time of one clone goes, on the wall and a processor's: its start, one command, its end.

The phases come from functions of the package timed from outside (see `probes`). A processor's time is that of all
threads of this process and of QEMU; QEMU itself says which of its threads is the guest's processor.
"""

from collections.abc import Iterator
from contextlib import ExitStack

from benchmarks import probes, processor
from benchmarks.probes import Probe
from benchmarks.samples import Samples, total
from benchmarks.stopwatch import Stopwatch
from benchmarks.table import Table
from pytest_readonly_vm.channels.qmp import Qmp
from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.machine.lab import Lab
from pytest_readonly_vm.machine.vm import VirtualMachine
from pytest_readonly_vm.start import maker, migration

_START, _COMMAND, _END = "**start**", "first command", "close"
_LOADED, _FREED = "state loaded", "monitor commands that let the guest run"
_LOADING = ("migrate-set-capabilities", "migrate-set-parameters", "query-migrate-capabilities", "migrate-incoming")
_PHASES = (
    Probe(maker, "launch", "QEMU launched: folder, sockets, Landlock, fork, exec"),
    Probe(maker, "greet", "QEMU up to the monitor's greeting"),
    Probe(Qmp, "command", lambda _self, name, *_, **__: _LOADED if name in _LOADING else _FREED),
    Probe(migration, "migrated", _LOADED),
    Probe(maker, "resume", "the guest's channel answers, and it is repaired"),
)


def tables(lab: Lab, name: str, config: VmConfig, runs: int) -> Iterator[Table]:
    """Of the same clones: the phases on the wall, and the processor's time of each. The template is there."""
    wall, ours, qemus = Stopwatch(), Stopwatch(processor.own), Stopwatch(processor.of_children)
    guests: list[float] = []
    for number in range(runs + 1):
        guests.append(_one(lab, config, wall, ours, qemus))
        if not number:
            for watch in (wall, ours, qemus):
                watch.forget_round()
    yield _phases(f"{name}: the phases of a clone", wall)
    table = _phases(f"{name}: a processor's time in these phases, this process and QEMU together", ours, qemus)
    guest = Samples(tuple(guests[1:]))
    for label, samples in {
        "... of this process": _all(ours),
        "... of QEMU": _all(qemus),
        "... ... the guest's processor, up to the first command": guest,
        "... ... everything else in it": _all(qemus) - guest,
    }.items():
        table.add(label, samples)
    yield table


def _one(lab: Lab, config: VmConfig, *watches: Stopwatch) -> float:
    """Processor's time of the guest's, up to its first command."""
    for watch in watches:
        watch.next_round()
    with _timing(_START, watches), ExitStack() as probed:
        for watch in watches:
            probed.enter_context(probes.applied(_PHASES, watch))
        vm = lab.start(config, name="profile")
    with _timing(_COMMAND, watches):
        vm.run("true")
    used = guests_processor(vm)
    with _timing(_END, watches):
        vm.close()
    return used


def _timing(label: str, watches: tuple[Stopwatch, ...]) -> ExitStack:
    with ExitStack() as all_of_them:
        for watch in watches:
            all_of_them.enter_context(watch.timing(label))
        return all_of_them.pop_all()


def guests_processor(vm: VirtualMachine) -> float:
    """Seconds of the threads of QEMU that are the guest's processors; under TCG the translation of its code is theirs."""
    threads = [found["thread-id"] for found in vm.qmp.execute("query-cpus-fast")]
    return sum(processor.of_thread(vm.pid, thread) for thread in threads)


def _all(*watches: Stopwatch) -> Samples:
    return total(watch.samples(label) for watch in watches for label in (_START, _COMMAND, _END))


def _phases(title: str, *watches: Stopwatch) -> Table:
    """A row for each phase: the sum of what the clocks of these say of it."""
    table = Table(title, "ms")
    parts = {
        label: total(watch.samples(label) for watch in watches)
        for label in watches[0].labels()
        if label not in (_START, _COMMAND, _END)
    }
    for label, samples in parts.items():
        table.add(label, samples)
    start = total(watch.samples(_START) for watch in watches)
    table.add("everything else", start - total(parts.values()))
    table.add(_COMMAND, command := total(watch.samples(_COMMAND) for watch in watches))
    table.add("**up to the first command answered**", start + command)
    table.add(_END, total(watch.samples(_END) for watch in watches))
    table.add("**all**", _all(*watches))
    return table
