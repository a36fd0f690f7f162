"""Measures one machine at a time, nothing prefetched, the template in memory: a clone's phases, on the wall and of a
processor's time, and a clone against going back to a saved state by hand (see `revert_loop`), in turns.

The phases come from functions of the package timed from outside (see `probes`). Processor's time is that of all
threads of this process and of QEMU; QEMU itself says which of its threads are the guest's processors. What a guest
did when it was frozen goes on in each clone of it, so the clones are of several templates.
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

RUNS = 21

_TEMPLATES = 3
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
    """For each guest the phases, and the turns."""
    for name, guest in guests.both().items():
        config = guest.replace(start="clone", no_cache=True)
        profile, turns = _Profile(), _Turns()
        for number in range(_TEMPLATES):
            with Lab() as lab, RevertLoop(lab, config) as loop:
                lab.start(config, name="template").close()
                for _ in range(number, runs, _TEMPLATES):
                    profile.measure(lab, config)
                    turns.measure(lab, config, loop)
        yield from profile.tables(name)
        yield turns.table(name)
    yield _of_others(runs)


def _of_others(runs: int) -> Table:
    """A row for each other architecture."""
    table = Table(f"Tiny Linux under TCG: a copy {_ANSWERED}", "ms")
    for name, config in guests.others().items():
        watch = Stopwatch()
        with Lab() as lab:
            lab.start(config.replace(start="clone", no_cache=True), name="template").close()
            boot = next(boot.seconds for boot in lab.boots if boot.manner == "boot")
            for _ in range(runs):
                watch.next_round()
                _clone(lab, config.replace(start="clone", no_cache=True), watch)
        table.add(f"{name}, which boots in {boot:.1f} s", watch.samples(_ANSWERED))
    return table


class _Profile:
    """Clones that run a shell's own ``true``, phase by phase."""

    def __init__(self) -> None:
        self._wall, self._ours, self._qemus = Stopwatch(), Stopwatch(processor.own), Stopwatch(processor.of_children)
        self._guests: list[float] = []

    def measure(self, lab: Lab, config: VmConfig) -> None:
        for watch in self._watches():
            watch.next_round()
        with ExitStack() as probed:
            for watch in self._watches():
                probed.enter_context(watch.timing(_START))
                probed.enter_context(probes.applied(_PHASES, watch))
            vm = lab.start(config, name="profile")
        with self._timing(_COMMAND):
            vm.run("true")
        self._guests.append(_of_guests_processors(vm))
        with self._timing(_END):
            vm.close()

    def _watches(self) -> tuple[Stopwatch, ...]:
        return self._wall, self._ours, self._qemus

    @contextmanager
    def _timing(self, label: str) -> Iterator[None]:
        with ExitStack() as timed:
            for watch in self._watches():
                timed.enter_context(watch.timing(label))
            yield

    def tables(self, name: str) -> Iterator[Table]:
        yield _phases(f"{name}: the phases of a clone, on the wall", self._wall)
        table = _phases(f"{name}: the phases of a clone, processor's time", self._ours, self._qemus)
        guest, qemu = Samples(tuple(self._guests)), _whole(self._qemus)
        table.add("... of this process", _whole(self._ours))
        table.add("... of QEMU", qemu)
        table.add(f"... ... the guest's processor, {_ANSWERED}", guest)
        table.add("... ... everything else in QEMU", qemu - guest)
        yield table


def _of_guests_processors(vm: VirtualMachine) -> float:
    """Processor's time of those threads of QEMU; under TCG the translation of the guest's code is theirs."""
    threads = [found["thread-id"] for found in vm.qmp.execute("query-cpus-fast")]
    return sum(processor.of_thread(vm.pid, thread) for thread in threads)


def _whole(*watches: Stopwatch) -> Samples:
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
    table.add("**all**", _whole(*watches))
    table.notes.append(f"Clones of {_TEMPLATES} templates that are in memory, one after the other, nothing prefetched.")
    return table


class _Turns:
    """Clones and reverts, each with a first program: a round goes on until there is nothing left of it to do."""

    def __init__(self) -> None:
        self._walls: dict[str, Stopwatch] = {}
        self._processors: dict[str, Stopwatch] = {}
        self._rounds = 0

    def measure(self, lab: Lab, config: VmConfig, loop: RevertLoop) -> None:
        rounds: dict[str, Callable[[Stopwatch], None]] = {
            "clone": lambda wall: _clone(lab, config, wall),
            "loadvm": lambda wall: _revert(loop, wall, lambda: loop.by_shell(_PROGRAM)),
            "loadvm, clock set": lambda wall: _revert(loop, wall, loop.repair, lambda: loop.by_shell(_PROGRAM)),
        }
        if config.kernel is None:  # an agent is in Debian only
            rounds["loadvm, by the agent"] = lambda wall: _revert(loop, wall, lambda: loop.by_agent(_PROGRAM))
        self._rounds += 1
        for way in list(rounds)[:: 1 if self._rounds % 2 else -1]:
            wall = self._walls.setdefault(way, Stopwatch())
            used = self._processors.setdefault(way, Stopwatch(processor.of_all))
            wall.next_round()
            used.next_round()
            with used.timing(_ALL):
                rounds[way](wall)

    def table(self, name: str) -> Table:
        table = Table(f"{name}: a clone, and going back to a saved state by hand, with a first `{_PROGRAM}`", "ms")
        for what, watches in ((_ANSWERED, self._walls), (_ALL, self._processors)):
            for way, watch in watches.items():
                table.add(f"{way}: {what}", watch.samples(what))
        table.notes.append(
            "In turns. By hand: a script with sockets to QEMU's monitor and to a root shell in the guest or its agent; "
            "QEMU stays. Nothing is repaired, or the clock is set and something written to /dev/urandom."
        )
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
