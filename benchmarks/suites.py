"""Measures whole suites of pytest whose tests each have a machine of their own, against one machine for all of them,
against a boot for each, and against the time that a test takes anyway.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.samples import Samples
from benchmarks.session import PLUGIN, Sessions, pytest_arguments
from benchmarks.table import Table
from pytest_readonly_vm.config.settings import VmConfig

TESTS = 100
"""How many trivial tests the suite has."""

SUITE = Path(__file__).with_name("hundred")
"""Of one test, as many times as the environment says."""

_COLD_TESTS = 3


@dataclass(frozen=True, slots=True)
class _Run:
    """One run of pytest: seconds of the whole process, of each test, and how its machines came to be."""

    wall: float
    first_test: float
    """Seconds from the start of the process to the end of the first test."""
    setups: Samples
    calls: Samples
    teardowns: Samples
    manners: tuple[str, ...]

    @property
    def boots(self) -> int:
        return self.manners.count("boot")

    @property
    def tests(self) -> Samples:
        return self.setups + self.calls + self.teardowns


def trivial(name: str, config: VmConfig) -> Iterator[Table]:
    """A hundred tests of one command. The cache of the configuration must be empty; it gets the template."""
    clones = _run(config.replace(start="clone"), TESTS)
    again = _run(config.replace(start="clone"), 1)
    shared = _run(config.replace(start="cold", scope="session"), TESTS)
    cold = _run(config.replace(start="cold"), _COLD_TESTS)
    beyond = cold.wall - sum(cold.tests)
    all_cold = beyond + TESTS * cold.tests.median
    table = Table(f"{name}: pytest with {TESTS} tests of one command, the whole process", "s")
    table.add("a machine for each: one boot, and clones", _once(clones.wall))
    table.add("one machine for all: one boot", _once(shared.wall))
    table.add(f"a boot for each, extrapolated from {_COLD_TESTS} tests", _once(all_cold))
    table.notes.append(
        f"Clones take {clones.wall / shared.wall:.2f} times as long as the shared machine, "
        f"and boots {all_cold / clones.wall:.1f} times as long as clones."
    )
    yield table
    table = Table(f"{name}: the parts of that", "s")
    table.add("clones: setup of the first test, with the boot", _once(clones.setups.values[0]))
    table.add("clones: a later test, setup", _later(clones.setups))
    table.add("clones: a later test, call", _later(clones.calls))
    table.add("clones: a later test, teardown", _later(clones.teardowns))
    table.add("shared: setup of the first test, with the boot", _once(shared.setups.values[0]))
    table.add("shared: a later test, all", _later(shared.tests))
    table.add("cold: a test, all", cold.tests)
    table.add("second run: start of pytest to the end of its first test", _once(again.first_test))
    table.notes.append(f"Boots: {clones.boots} in the first run with clones, {again.boots} in the second.")
    yield table


def prefetched(name: str, config: VmConfig, *, tests: int, pause: float) -> Table:
    """What a test sees of its machine's start when the one before it takes longer than that."""
    config = config.replace(start="clone")
    without = _run(config.replace(prefetch="0"), max(tests // 4, 1) + 1, pause)
    found = _run(config.replace(prefetch="1"), tests + 2, pause)
    table = Table(f"{name}: tests of {pause:g} s, each with a clone: the setup of a test", "ms")
    table.add("prefetch=0", _later(without.setups))
    table.add("prefetch=1, the first two tests", Samples(found.setups.values[:2]))
    table.add("prefetch=1, later tests", Samples(found.setups.values[2:]))
    table.add("prefetch=1, their command and pause, beyond the pause", Samples(tuple(s - pause for s in found.calls)))
    return table


def _run(config: VmConfig, tests: int, pause: float = 0.0) -> _Run:
    with Sessions() as sessions:
        output = sessions.folder / "reports.json"
        environment = {
            "BENCHMARK_OUTPUT": str(output),
            "BENCHMARK_TESTS": str(tests),
            "BENCHMARK_PAUSE": str(pause),
        }
        arguments = pytest_arguments([PLUGIN], "-c", "pytest.ini", *options(config), str(SUITE))
        sessions.python("-c", "import pytest_readonly_vm.machine.lab")  # to have the bytecode
        epoch, started = time.time(), time.perf_counter()
        sessions.python(*arguments, env=environment)
        wall = time.perf_counter() - started
        reports = json.loads(output.read_text())

    def phase(when: str) -> Samples:
        return Samples(tuple(report["seconds"] for report in reports if report["when"] == when))

    first_test = next(report["now"] for report in reports if report["when"] == "teardown") - epoch
    manners = tuple(manner for report in reports for manner in report["manners"])
    return _Run(wall, first_test, phase("setup"), phase("call"), phase("teardown"), manners)


def options(config: VmConfig) -> list[str]:
    """What of a configuration is not the default, as options of pytest."""
    values = {name: getattr(config, name) for name in config.origins}
    values["memory"] = f"{config.memory >> 20}M"
    return [f"--vm-{name.replace('_', '-')}={value}" for name, value in values.items()]


def _once(seconds: float) -> Samples:
    return Samples((seconds,))


def _later(samples: Samples) -> Samples:
    return Samples(samples.values[1:])
