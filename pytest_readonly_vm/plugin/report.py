"""Owns what a test's report says of its machines: the console, a readable error, the verdict on the base."""

from collections.abc import Generator, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

import pytest_readonly_vm
from pytest_readonly_vm.errors import GuestBroken, VmError
from pytest_readonly_vm.plugin.failure import tell
from pytest_readonly_vm.plugin.integrations import properties
from pytest_readonly_vm.plugin.news import NEWS
from pytest_readonly_vm.plugin.owners import forget_machines, machines_of
from pytest_readonly_vm.plugin.run import Run
from pytest_readonly_vm.plugin.timeouts import explanation, is_timeout
from pytest_readonly_vm.printable import line, shown

_OURS = str(Path(pytest_readonly_vm.__file__).parent)
_LONGEST_TEXT = 1000


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """When all of a test has been torn down, compare the bases; so a change fails the test that made it, by name."""
    try:
        return (yield)
    finally:
        Run.of(item.config).check_bases(item)


@pytest.hookimpl(specname="pytest_runtest_makereport")
def pytest_runtest_makereport_begin(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Cut tracebacks just before pytest reads them: the error of a ``unittest.TestCase`` is not known any sooner."""
    if call.excinfo is None:
        return
    if _is_for_users(call.excinfo.value):
        _cut_below_users_code(call.excinfo.tb, item.config.rootpath)
    for error in _those_before(call.excinfo.value):
        if _is_for_users(error) and error.__traceback__ is not None:
            _cut_below_users_code(error.__traceback__, item.config.rootpath)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add what is known of the machines; errors are shown where the user's code met them, not where ours raised."""
    report = yield
    run = Run.of(item.config)
    during = run.stopwatch.take()
    ours = call.excinfo if call.excinfo and _is_for_users(call.excinfo.value) else None
    users = ours is not None and _cut_below_users_code(ours.tb, item.config.rootpath)
    # Of a machine that an earlier test has lost, that test's report tells.
    machines = [] if ours is not None and isinstance(ours.value, GuestBroken) else machines_of(item)
    if report.failed:
        if ours is not None and not users:
            report.longrepr = _without_traceback(ours)
        run.note_failure(machines)
        if words := explanation(item, report.longreprtext):
            report.sections.append(("Timeout", words))
    complaints = run.evidence.look(item, report, machines)
    if report.failed and call.excinfo is not None and (machines or ours is not None):
        tell(report, call.excinfo.value, test=item.name, machines=machines, complaints=complaints)
    run.evidence.tell(report, machines)
    if report.when == "teardown":
        for vm in machines:
            report.user_properties += properties(vm, run.lab.identity(vm.config.image), run.evidence.place_of(vm))
        run.evidence.finish()
        forget_machines(item)
    if news := run.take_news(during):
        vars(report)[NEWS] = news
    return report


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """What xdist sends from a worker must be UTF-8, as names of files need not be; it would be an internal error."""
    return _sendable((yield))


def _sendable(data: Any) -> Any:
    if isinstance(data, dict):
        return {_sendable(key): _sendable(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return type(data)(map(_sendable, data))
    if isinstance(data, str) and not data.isascii():
        return data.encode("utf-8", "backslashreplace").decode()
    return data


@pytest.hookimpl(tryfirst=True)
def pytest_assertrepr_compare(config: pytest.Config, op: str, left: object, right: object) -> list[str] | None:
    """Two texts that differ, as in ``assert result.stdout == ...``; pytest itself would show a guest's as it is."""
    if not (isinstance(left, str) and isinstance(right, str) and Run.of(config).has_lab):
        return None
    if left == shown(left) and right == shown(right):
        return None
    return [f"{line(repr(left), _LONGEST_TEXT)} {op} {line(repr(right), _LONGEST_TEXT)}"]


def _those_before(error: BaseException) -> Iterator[BaseException]:
    """The errors that led to one, which pytest shows as well."""
    seen = {id(error)}
    while (before := error.__cause__ or error.__context__) is not None and id(before) not in seen:
        seen.add(id(before))
        yield before
        error = before


def _is_for_users(error: BaseException) -> bool:
    """Whether a traceback of our own code, or of what waits in it, would tell a user nothing."""
    return isinstance(error, VmError | pytest.UsageError) or is_timeout(error)


def _cut_below_users_code(traceback: TracebackType, root: Path) -> bool:
    """Drop from a traceback what libraries did below the last line of the user's code; whether there is such a line.

    What a fixture of ours raises by itself has only libraries' lines.
    """
    last = None
    entry: TracebackType | None = traceback
    while entry is not None:
        path = Path(entry.tb_frame.f_code.co_filename)
        if path.is_relative_to(root) and "site-packages" not in path.parts and not str(path).startswith(_OURS):
            last = entry
        entry = entry.tb_next
    if last is not None:
        last.tb_next = None
    return last is not None


def _without_traceback(excinfo: pytest.ExceptionInfo[BaseException]) -> Any:
    """An error as its message and its notes; what pytest shows in the place of a traceback."""
    shown = excinfo.getrepr(style="value")
    if notes := getattr(excinfo.value, "__notes__", ()):
        shown.addsection("Evidence", "\n".join(notes))
    return shown
