"""Measures what the plugin costs a project that has it installed and uses no machine; and what the first use loads.

How: ``pytest -q`` on one test that does nothing, whole processes, in a new environment into which the plugin's wheel
was installed, with the plugin and with ``-p no:readonly_vm``, taking turns. First where nobody may write bytecode, as
in most images of containers: pytest then compiles anew whatever it loads of a plugin, at each start. Then as on most
computers, with all bytecode there. ``-X importtime`` says what each module that the plugin adds takes by itself.
"""

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.installation import install
from benchmarks.samples import Samples, total
from benchmarks.session import Cost, Sessions, pytest_arguments
from benchmarks.stopwatch import Stopwatch
from benchmarks.table import Table

RUNS = 20

_WITHOUT = ("-p", "no:readonly_vm")
_TRIVIAL, _USING = "test_trivial.py", "test_using.py"
_TESTS = {
    _TRIVIAL: "def test_it(): pass\n",
    _USING: "def test_it(vm_config): import pytest_readonly_vm.machine.lab\n",
}
_VARIANTS = {
    "pytest without both": (*_WITHOUT, "-p", "no:timeout", _TRIVIAL),
    "pytest-timeout, which it depends on,": (*_WITHOUT, _TRIVIAL),
    "pytest-readonly-vm": (_TRIVIAL,),
    "what the first machine imports": (_USING,),
}
"""Each does something more than the one before."""
_NO_BYTECODE = {"PYTHONDONTWRITEBYTECODE": "1"}
_IMPORT = re.compile(r"import time:\s+(?P<own>\d+) \|\s+\d+ \|\s+(?P<module>\S+)")
_MODULES_CODE = """\
import sys, pytest
pytest.main(sys.argv[1:])
print("MODULES", *sys.modules)
"""


def tables(runs: int) -> Iterator[Table]:
    """Two tables of whole processes, one of imports."""
    with TemporaryDirectory() as folder, Sessions(installed=install(Path(folder))) as sessions:
        for name, text in _TESTS.items():
            (sessions.folder / name).write_text(text)
        yield _processes(sessions, runs, "where nobody writes bytecode", _NO_BYTECODE)  # while there is none
        yield _processes(sessions, runs, "with bytecode", {})
        yield _imports(sessions, runs)


def _processes(sessions: Sessions, runs: int, where: str, env: Mapping[str, str]) -> Table:
    costs: dict[str, list[Cost]] = {variant: [] for variant in _VARIANTS}
    for number in range(runs + 1):
        # The order turns around with every round, so that no variant always follows the same other one.
        for variant in list(_VARIANTS)[:: 1 if number % 2 else -1]:
            cost = sessions.cost(*pytest_arguments((), *_VARIANTS[variant]), env=env)
            if number:  # the first round fills the caches
                costs[variant].append(cost)
    table = Table(f"pytest on one trivial test, {where}: the whole process, and what adds to it", "ms")
    wall = [Samples(tuple(cost.wall for cost in found)) for found in costs.values()]
    processor = [Samples(tuple(cost.processor for cost in found)) for found in costs.values()]
    bare, *others = _VARIANTS
    for what, measured in (("wall clock", wall), ("processor time", processor)):
        table.add(f"{bare}, {what}", measured[0])
        for other, without, with_it in zip(others, measured, measured[1:], strict=False):
            table.add(f"{other} adds, {what}", with_it - without)
            table.note_minima(f"{other} {what}", with_it, without)
    return table


def _imports(sessions: Sessions, runs: int) -> Table:
    added = _modules(sessions, _TRIVIAL) - _modules(sessions, *_WITHOUT, _TRIVIAL)
    stopwatch = Stopwatch()
    for _ in range(runs):
        stopwatch.next_round()
        done = sessions.python("-X", "importtime", *pytest_arguments((), _TRIVIAL))
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


def _modules(sessions: Sessions, *others: str) -> set[str]:
    """What is in `sys.modules` after a run."""
    _, _, *arguments = pytest_arguments((), *others)
    done = sessions.python("-c", _MODULES_CODE, *arguments)
    [modules] = re.findall(r"^MODULES (.*)$", done.stdout, re.MULTILINE)
    return {name for name in modules.split() if name not in sys.builtin_module_names}
