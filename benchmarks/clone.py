"""Measures one machine at a time, nothing prefetched, the template in memory: a clone's phases, on the wall and of a
processor's time, and a clone against going back to a saved state by hand (see `revert_loop`), in turns.

The phases come from functions of the package timed from outside (see `probes`). Processor's time is that of all
threads of this process and of QEMU; QEMU itself says which of its threads are the guest's processors.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from benchmarks import guests, probes, processor
from benchmarks.probes import Probe
from benchmarks.revert_loop import RevertLoop
from benchmarks.samples import Samples, total
from benchmarks.stopwatch import Stopwatch
from benchmarks.table import Table
from pytest_readonly_vm.channels.qmp import Qmp
from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.machine.lab import Lab
from pytest_readonly_vm.machine.vm import VirtualMachine
from pytest_readonly_vm.start import maker, migration

RUNS = 20

_START, _COMMAND, _END = "Lab.start", "first command", "close"
_LOADED, _FREED = "state loaded", "monitor commands that let the guest run"
_LOADING = ("migrate-set-capabilities", "migrate-set-parameters", "query-migrate-capabilities", "migrate-incoming")
_PHASES = (
    Probe(maker, "launch", "QEMU launched: folder, sockets, Landlock, fork, exec"),
    Probe(maker, "greet", "QEMU up to its monitor's first answer"),
    Probe(Qmp, "command", lambda _self, name, *_, **__: _LOADED if name in _LOADING else _FREED),
    Probe(migration, "migrated", _LOADED),
    Probe(maker, "resume", "the guest's channel answers, and it is repaired"),
)
_ANSWERED, _ALL = "up to the first command answered", "processor's time, all of a round"
_PROGRAM = "uname"
"""A program, for what a shell does by itself costs it nothing."""


def tables(runs: int) -> Iterator[Table]:
    """For each guest the phases, then the turns."""
    for name, guest in {
        "tiny Linux": guests.tiny().replace(ready="auto", memory="1G"),
        "Debian": guests.full(),
    }.items():
        config = guest.replace(start="clone", no_cache=True)
        with Lab() as lab:
            shown = f"{name}, {config.memory >> 20}M"
            yield from _profile(lab, shown, config, runs)
            yield _against_reverts(lab, shown, config, runs)


def _profile(lab: Lab, name: str, config: VmConfig, runs: int) -> Iterator[Table]:
    """Two tables of the same clones."""
    watches = wall, ours, qemus = Stopwatch(), Stopwatch(processor.own), Stopwatch(processor.of_children)
    used: list[float] = []
    for number in range(runs + 1):
        used.append(_one(lab, config, *watches))
        if not number:  # the first has its template made
            used.clear()
            for watch in watches:
                watch.forget_round()
    yield _phases(f"{name}: the phases of a clone, on the wall", wall)
    table = _phases(f"{name}: the phases of a clone, processor's time", ours, qemus)
    guest, qemu = Samples(tuple(used)), _all(qemus)
    table.add("... of this process", _all(ours))
    table.add("... of QEMU", qemu)
    table.add(f"... ... the guest's processor, {_ANSWERED}", guest)
    table.add("... ... everything else in QEMU", qemu - guest)
    yield table


def _one(lab: Lab, config: VmConfig, *watches: Stopwatch) -> float:
    """One clone, into these; the processor's time of the guest's processor."""
    for watch in watches:
        watch.next_round()
    with ExitStack() as probed:
        for watch in watches:
            probed.enter_context(watch.timing(_START))
            probed.enter_context(probes.applied(_PHASES, watch))
        vm = lab.start(config, name="profile")
    with _timing(_COMMAND, *watches):
        vm.run("true")
    used = _guests_processors(vm)
    with _timing(_END, *watches):
        vm.close()
    return used


@contextmanager
def _timing(label: str, *watches: Stopwatch) -> Iterator[None]:
    with ExitStack() as timed:
        for watch in watches:
            timed.enter_context(watch.timing(label))
        yield


def _guests_processors(vm: VirtualMachine) -> float:
    """Processor's time of those threads of QEMU; under TCG the translation of the guest's code is theirs."""
    threads = [found["thread-id"] for found in vm.qmp.execute("query-cpus-fast")]
    return sum(processor.of_thread(vm.pid, thread) for thread in threads)


def _all(*watches: Stopwatch) -> Samples:
    return total(watch.samples(label) for watch in watches for label in (_START, _COMMAND, _END))


def _phases(title: str, *watches: Stopwatch) -> Table:
    """A row for each phase, the sum of what these say of it."""
    phases = {label: total(watch.samples(label) for watch in watches) for label in watches[0].labels()}
    start, command, end = map(phases.pop, (_START, _COMMAND, _END))
    table = Table(title, "ms")
    for label, samples in phases.items():
        table.add(label, samples)
    table.add("everything else", start - total(phases.values()))
    table.add(_COMMAND, command)
    table.add(f"**{_ANSWERED}**", start + command)
    table.add(_END, end)
    table.add("**all**", start + command + end)
    return table


def _against_reverts(lab: Lab, name: str, config: VmConfig, runs: int) -> Table:
    """A round is from the wish for a guest to the end of what is particular to it."""
    with RevertLoop(lab, config) as loop:
        rounds: dict[str, Callable[[Stopwatch], None]] = {
            "clone": lambda wall: _clone(lab, config, wall),
            "loadvm": lambda wall: _revert(loop, wall, lambda: loop.by_shell(_PROGRAM)),
            "loadvm, clock set": lambda wall: _revert(loop, wall, loop.repair, lambda: loop.by_shell(_PROGRAM)),
        }
        if config.kernel is None:  # an agent is in Debian only
            rounds["loadvm, by the agent"] = lambda wall: _revert(loop, wall, lambda: loop.by_agent(_PROGRAM))
        walls = {way: Stopwatch() for way in rounds}
        processors = {way: Stopwatch(processor.of_all) for way in rounds}
        for number in range(runs):
            for way in list(rounds)[:: 1 if number % 2 else -1]:
                walls[way].next_round()
                processors[way].next_round()
                with processors[way].timing(_ALL):
                    rounds[way](walls[way])
    table = Table(f"{name}: a clone, and going back to a saved state by hand, with a first `{_PROGRAM}`", "ms")
    for what, watches in ((_ANSWERED, walls), (_ALL, processors)):
        for way, watch in watches.items():
            table.add(f"{way}: {what}", watch.samples(what))
    return table


def _clone(lab: Lab, config: VmConfig, wall: Stopwatch) -> None:
    with wall.timing(_ANSWERED):
        vm = lab.start(config, name="in turns")
        vm.run(_PROGRAM)
    vm.close()


def _revert(loop: RevertLoop, wall: Stopwatch, *steps: Callable[[], object]) -> None:
    with wall.timing(_ANSWERED):
        loop.revert()
        for step in steps:
            step()
    loop.pause()
