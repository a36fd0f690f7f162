"""Measures what the plugin costs a project that has it installed and uses no machine.

How: ``pytest -q`` on one test that does nothing, whole processes, with the plugin and with an empty one, taking turns.
The plugins of a developer's environment are kept out: nothing is loaded by entry point, the plugin by ``-p``. The empty
one makes both sides pay for what ``-p`` looks up, which a plugin loaded by entry point does not cost. Then
``-X importtime`` says what each module that the plugin adds takes by itself.
"""

import re
import sys
from collections.abc import Iterator

from benchmarks.samples import Samples, total
from benchmarks.session import PLUGIN, Cost, Sessions, pytest_arguments
from benchmarks.stopwatch import Stopwatch
from benchmarks.table import Table

RUNS = 100

_EMPTY = "empty_plugin"
_VARIANTS = {
    "an empty plugin": _EMPTY,
    "pytest-readonly-vm": PLUGIN,
    "pytest-timeout, which it depends on": "pytest_timeout",
}
_IMPORT = re.compile(r"import time:\s+(?P<own>\d+) \|\s+\d+ \|\s+(?P<module>\S+)")
_MODULES_CODE = """\
import sys, pytest
pytest.main(sys.argv[1:])
print("MODULES", *sys.modules)
"""


def tables(runs: int) -> Iterator[Table]:
    """One table of whole processes, one of imports."""
    with Sessions() as sessions:
        (sessions.folder / "test_trivial.py").write_text("def test_trivial():\n    pass\n")
        (sessions.folder / f"{_EMPTY}.py").touch()
        yield _processes(sessions, runs)
        yield _imports(sessions, max(runs // 4, 1))


def _processes(sessions: Sessions, runs: int) -> Table:
    costs: dict[str, list[Cost]] = {variant: [] for variant in _VARIANTS}
    for number in range(runs + 1):
        # The order turns around with every round, so that no variant always follows the same other one.
        for variant in list(_VARIANTS)[:: 1 if number % 2 else -1]:
            cost = sessions.cost(*pytest_arguments([_VARIANTS[variant]]))
            if number:  # the first round fills the caches
                costs[variant].append(cost)
    table = Table("pytest on one trivial test: the whole process, and what a plugin adds to it", "ms")
    wall = {variant: Samples(tuple(cost.wall for cost in found)) for variant, found in costs.items()}
    processor = {variant: Samples(tuple(cost.processor for cost in found)) for variant, found in costs.items()}
    empty, *plugins = _VARIANTS
    for what, measured in (("wall clock", wall), ("processor time", processor)):
        table.add(f"{empty}, {what}", measured[empty])
        for plugin in plugins:
            table.add(f"{plugin} adds, {what}", measured[plugin] - measured[empty])
            table.note_minima(f"{plugin}, {what}", measured[plugin], measured[empty])
    return table


def _imports(sessions: Sessions, runs: int) -> Table:
    added = _modules(sessions, PLUGIN) - _modules(sessions)
    stopwatch = Stopwatch()
    for _ in range(runs):
        stopwatch.next_round()
        done = sessions.python("-X", "importtime", *pytest_arguments([PLUGIN]))
        for match in _IMPORT.finditer(done.stderr):
            if match["module"] in added:
                stopwatch.add(match["module"], int(match["own"]) / 1e6)
    table = Table("import of each module that the plugin adds, by itself (-X importtime)", "us")
    by_cost = sorted(stopwatch.labels(), key=lambda module: -stopwatch.samples(module).median)
    for module in by_cost:
        table.add(module, stopwatch.samples(module))
    table.add("sum", total(stopwatch.samples(module) for module in by_cost))
    foreign = sorted(module for module in added if not module.startswith("pytest_readonly_vm"))
    table.notes.append(f"{len(added)} modules are added; not the plugin's own: {', '.join(foreign) or 'none'}.")
    return table


def _modules(sessions: Sessions, *plugins: str) -> set[str]:
    """What is in `sys.modules` after a run."""
    _, _, *arguments = pytest_arguments(plugins)
    done = sessions.python("-c", _MODULES_CODE, *arguments)
    [modules] = re.findall(r"^MODULES (.*)$", done.stdout, re.MULTILINE)
    return {name for name in modules.split() if name not in sys.builtin_module_names}
