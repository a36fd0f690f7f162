"""Measures the ways to start a machine: from "a test wants one" to its first command answered, and what that rests on.

Boots and clones take turns. The same boots and templates serve several tables, in a cache
of its own that goes with the run. Whole suites are in `suites`, what clones hold in `clones`, where the time of one
goes in `clone`.
"""

from collections.abc import Iterator, Mapping
from tempfile import TemporaryDirectory

from benchmarks import clones, guests, probes, suites
from benchmarks.probes import Probe
from benchmarks.samples import Samples
from benchmarks.stopwatch import Stopwatch
from benchmarks.table import Table
from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.machine.lab import Lab
from pytest_readonly_vm.start import templates
from pytest_readonly_vm.start.archive import Archive

RUNS = 20

_COLD_RUNS = 3
_PAUSE = 1.0
_WHOLE, _COMMAND, _END = "**all**", "first command", "close"
_FROZEN, _KEPT, _FOUND = "frozen, after its boot", "kept in the cache", "loaded from the cache"

_MAKING = (
    Probe(templates, "freeze", _FROZEN),
    Probe(Archive, "save", _KEPT),
    Probe(Archive, "load", _FOUND),
)


def tables(runs: int) -> Iterator[Table]:
    """Suites first, for their boots fill the cache; then starts and their parts, and what clones hold."""
    with TemporaryDirectory(dir="/var/tmp") as folder:
        for name, guest in guests.both().items():
            config = guest.replace(cache=folder)
            yield from suites.trivial(name, config)
            yield suites.prefetched(name, config, tests=runs, pause=_PAUSE)
            making = Stopwatch()
            with Lab() as lab:
                with probes.applied(_MAKING, making):
                    yield _first_commands(lab, name, _ways(config), making, runs)
                yield _templates(name, making)
                yield from clones.tables(lab, name, config.replace(start="clone"), runs)


def _ways(config: VmConfig) -> Mapping[str, VmConfig]:
    ways = {
        "cold": config.replace(start="cold"),
        "clone": config.replace(start="clone"),
        "clone, 256M": config.replace(start="clone", memory="256M"),
    }
    if config.kernel is None:  # an agent is in Debian only, and there the shell answers first
        ways["clone, agent"] = config.replace(start="clone", channel="agent")
    return ways


def _first_commands(lab: Lab, name: str, ways: Mapping[str, VmConfig], making: Stopwatch, runs: int) -> Table:
    """All ways in turns, and a few boots; what is done once per run is done before."""
    watches = {way: Stopwatch() for way in ways}
    for way, config in ways.items():
        if config.start == "clone":
            making.next_round()
        if config.start != "cold":
            lab.start(config, name=way).close()
    for number in range(runs):
        for way, watch in watches.items():
            if way != "cold" or number < _COLD_RUNS:
                _start(lab, ways[way], watch)
    table = Table(f"{name}, 1G: from Lab.start to the first command answered", "ms")
    for way, watch in watches.items():
        table.add(way, watch.samples(_WHOLE))
    cold, copied = (watches[way].samples(_WHOLE).median for way in ("cold", "clone"))
    table.notes.append(f"A clone is there {cold / copied:.0f} times as fast as a boot (medians).")
    table.add("the command alone: clone", watches["clone"].samples(_COMMAND))
    table.add("close: clone", watches["clone"].samples(_END))
    return table


def _start(lab: Lab, config: VmConfig, watch: Stopwatch) -> None:
    watch.next_round()
    with watch.timing(_WHOLE):
        vm = lab.start(config, name="measured")
        with watch.timing(_COMMAND):
            vm.run("true")
    with watch.timing(_END):
        vm.close()


def _templates(name: str, making: Stopwatch) -> Table:
    table = Table(f"{name}: a template of each kind, beside its boot", "ms")
    frozen, kept, loaded = map(making.samples, (_FROZEN, _KEPT, _FOUND))
    # Whoever finds nothing to load has it made.
    found = [load for load, freeze in zip(loaded, frozen, strict=True) if not freeze]
    made = {_FROZEN: filter(None, frozen), _KEPT: filter(None, kept), _FOUND: found}
    for label, seconds in made.items():
        if samples := tuple(seconds):
            table.add(label, Samples(samples))
    return table
