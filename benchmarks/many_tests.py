"""Measures whole runs of pytest with many trivial tests: a machine for each, one for all, and none, by one process and
by two workers of pytest-xdist. All machines are copies of a guest that an earlier run has frozen, so nothing boots.
"""

from collections.abc import Iterator
from tempfile import TemporaryDirectory

from benchmarks import guests, suites
from benchmarks.samples import Samples
from benchmarks.session import PLUGIN, Cost, Sessions, pytest_arguments
from benchmarks.table import Table
from pytest_readonly_vm.config.settings import VmConfig

RUNS = 5
TESTS = 20

_EACH, _ALL, _NONE = "a machine for each", "one machine for all", "no machine"
_WORKERS = (0, 2)
_WITHOUT = f"""\
import pytest

@pytest.mark.parametrize("number", range({TESTS}))
def test_nothing(number):
    pass
"""


def tables(runs: int) -> Iterator[Table]:
    """For each guest a table of the wall, and one of the processors."""
    with TemporaryDirectory(dir="/var/tmp") as cache, Sessions() as sessions:
        (sessions.folder / "test_nothing.py").write_text(_WITHOUT)
        for name, guest in guests.both().items():
            yield from _suites(name, guest.replace(start="clone", cache=cache), sessions, runs)


def _suites(name: str, config: VmConfig, sessions: Sessions, runs: int) -> Iterator[Table]:
    suite = str(suites.SUITE)
    tests = {
        _EACH: (*suites.options(config), suite),
        _ALL: (*suites.options(config.replace(scope="module")), suite),
        _NONE: ("test_nothing.py",),
    }
    kinds = [(what, workers) for what in tests for workers in _WORKERS]
    costs: dict[tuple[str, int], list[Cost]] = {kind: [] for kind in kinds}
    for number in range(runs + 1):
        for what, workers in kinds[:: 1 if number % 2 else -1]:
            arguments = pytest_arguments([PLUGIN, "xdist"], "-c", "pytest.ini", f"-n{workers}", *tests[what])
            cost = sessions.cost(*arguments, env={"BENCHMARK_TESTS": str(TESTS)})
            if number:  # the first round boots, and writes bytecode
                costs[what, workers].append(cost)
    title = f"{name}: pytest with {TESTS} tests of one command, the whole run"
    wall = Table(f"{title}, on the wall", "s")
    used = Table(f"{title}, processor's time of all its processes", "s")
    for (what, workers), found in costs.items():
        label = f"{what}, -n {workers}"
        wall.add(label, Samples(tuple(cost.wall for cost in found)))
        used.add(label, Samples(tuple(cost.processor for cost in found)))
    walls = dict(wall.rows)
    for workers in _WORKERS:
        each, shared = (walls[f"{what}, -n {workers}"] for what in (_EACH, _ALL))
        wall.notes.append(
            f"With -n {workers}, {_EACH} takes {each.median / shared.median:.2f} times as long as {_ALL} (medians; "
            f"{each.minimum / shared.minimum:.2f} times by the minima)."
        )
    for table in (wall, used):
        table.notes.append("Whole processes of pytest, in turns; the template is in the cache, so that nothing boots.")
        yield table
