"""Owns how a failure is told: its cause first, in the traceback's end and in the short summary, and nothing twice."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from pytest_readonly_vm.errors import CommandFailed, GuestPanicked, UnitFailed, VmError, WaitTimeout
from pytest_readonly_vm.plugin.timeouts import is_timeout
from pytest_readonly_vm.printable import line, note, tail

if TYPE_CHECKING:
    from pytest_readonly_vm.command_result import CommandResult
    from pytest_readonly_vm.machine.vm import VirtualMachine

Complaints = Mapping["VirtualMachine", Sequence[str]]
"""What the guests complained of since the test had them."""

_LINES_SHOWN = 40
_LONGEST_CAUSE = 200
_LINES_OF_A_PROMPT = 3

# As a text, compiled when first used: this is loaded in runs, too, that use no machine.
_TROUBLE = (
    r"(?i)\b(?:error|fail(?:ed|ure|s)?|cannot|can't|could not|unable|denied|refused|invalid|not found|no such|no space"
    r"|missing|unknown|unrecognized|illegal|exception|fatal|aborted|killed|\w+error)\b"
)
UNHEALTHY = "the test passed, but the guest is not healthy: "
"""How the error of a health gate begins, which says in its kind already what the short summary has no room for."""


def tell(
    report: pytest.TestReport,
    error: BaseException,
    *,
    test: str,
    machines: "Sequence[VirtualMachine]",
    complaints: Complaints,
) -> None:
    """Complete the report of a failure by what the machines know of it.

    :param test: the test's name, with which the names of its machines begin.
    """
    message = _message(error)
    results = [] if isinstance(error, VmError) else list(_results(message, machines))
    known = "\n".join([message, *getattr(error, "__notes__", ())]) if isinstance(error, VmError) else ""
    lines = [f"{_of(vm, machines)}{one}" for vm in machines for one in vm.instance.base_lines.waiting()]
    lines += [
        f"{_of(vm, machines)}{one}" for vm, found in complaints.items() for one in found if not _is_told(one, known)
    ]
    if summary := _summary(error, message, test, machines, results, lines):
        _put_into_short_summary(report, summary)
    if lines and not (isinstance(error, WaitTimeout) and _put_below_headline(report, lines)):
        report.sections.append(("What the guest complained of", "\n".join(lines)))
    for vm in machines:
        # Of a property of them, say, nothing tells which they were.
        family = vm.latest_changes.family if vm.latest_changes is not None else []
        if isinstance(error, AssertionError) and any(family):
            meant = next((one for one in reversed(family) if one and repr(one) in message), None)
            if meant is not None:
                report.sections.append((f"What has changed in {vm.name}", str(meant)))
    for vm, result in results:
        report.sections.append((f"Command in {vm.name}", _command(result)))
    for vm in machines:
        said = vm.console.tail_of_test(_LINES_SHOWN)
        if said and not _is_prompt(said) and not _tells_of_console(error, message, vm):
            report.sections.append((f"Captured serial console of {vm.name}", said))


def headline(report: pytest.TestReport) -> str:
    """What a failure's report says in one line."""
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is not None:
        return str(crash.message).strip().partition("\n")[0]
    return (report.longreprtext.strip().splitlines() or [report.outcome])[0]


def _message(error: BaseException) -> str:
    """What a test's error says of itself: it may be of a kind of the user's, which cannot."""
    try:
        return str(error)
    except Exception:
        return ""


def _results(message: str, machines: "Sequence[VirtualMachine]") -> "Iterator[tuple[VirtualMachine, CommandResult]]":
    """The commands that an error is about, and of one that does not say, of each machine the latest that failed.

    If none has, it is the latest.
    """
    known = [(vm, result) for vm in machines for result in tuple(vm.results)]  # a thread may have one more
    meant = [(vm, result) for vm, result in known if repr(result) in message]
    if meant:
        yield from meant
        return
    for vm in machines:
        latest = [result for owner, result in known if owner is vm]
        if latest:
            yield vm, next((result for result in reversed(latest) if not result.ok), latest[-1])


def _summary(
    error: BaseException,
    message: str,
    test: str,
    machines: "Sequence[VirtualMachine]",
    results: "Sequence[tuple[VirtualMachine, CommandResult]]",
    complaints: Sequence[str],
) -> str | None:
    """What the short summary is to say, of which a terminal shows some 40 characters: None for what pytest would."""
    first = message.strip().partition("\n")[0]
    kind = type(error).__name__
    if isinstance(error, CommandFailed):
        code, why = error.result.exit_code, _why(error.result) or "it printed nothing"
        return f"{kind}: {why} (exit code {code} from: {line(error.result.command)})"
    if isinstance(error, VmError | pytest.UsageError):
        first = _without_name(first, test, machines).removeprefix(UNHEALTHY)
        if isinstance(error, GuestPanicked) and error.panic in first:
            first = first[first.index(error.panic) :]
        if isinstance(error, UnitFailed):
            return f"{first.removeprefix('the unit ')} ({kind})"
        cause = f"{complaints[0]}; " if complaints and isinstance(error, WaitTimeout) else ""
        return f"{cause}{kind}: {first}"
    if is_timeout(error) and "\n" in message:
        return f"{_without_name(message.split(chr(10))[1], test, machines)}; {first}"
    if isinstance(error, AssertionError):
        blamed = [result for _, result in results if repr(result) in message and not result.ok]
        if blamed:
            why = _why(blamed[0])
            first = first.replace(repr(blamed[0]), "CommandResult")  # of which there would be nothing else to be seen
            return f"{first} (exit code {blamed[0].exit_code}{f': {why}' if why else ''})"
    return None


def _without_name(text: str, test: str, machines: "Sequence[VirtualMachine]") -> str:
    """Without what the line in the summary begins with: the test's name, which its machine has as well.

    Of several machines there is left what tells them apart.
    """
    for prefix in (f"{test}: ", *(f"{vm.name}: " for vm in machines if len(machines) == 1)):
        text = text.removeprefix(prefix)
    return re.sub(rf"^{re.escape(test)} \(([^)]*)\): ", r"\1: ", text)


def _why(result: "CommandResult") -> str:
    """The line by which a command says why it failed: the last one with a word for that, or else the last one."""
    said = tail(result.stderr_bytes) or tail(result.stdout_bytes)
    telling = [one for one in said if re.search(_TROUBLE, one)] or said
    return line(telling[-1], _LONGEST_CAUSE) if telling else ""


def _is_told(complaint: str, known: str) -> bool:
    """Whether an error has what a guest complained of: what became of a unit, or what it said."""
    from pytest_readonly_vm.evidence.complaints import LAST_SAID

    return any(part in known for part in complaint.split(LAST_SAID)) if known else False


def _is_prompt(said: str) -> bool:
    """Whether what a console said is nothing but that somebody may log in."""
    from pytest_readonly_vm.guest.prompts import Prompts

    return len([one for one in said.splitlines() if one.strip()]) <= _LINES_OF_A_PROMPT and Prompts().has_login(said)


def _put_into_short_summary(report: pytest.TestReport, summary: str) -> None:
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is not None:
        _, newline, rest = crash.message.partition("\n")
        crash.message = f"{summary}{newline}{rest}"


def _put_below_headline(report: pytest.TestReport, lines: Sequence[str]) -> bool:
    """Whether the report has a traceback, under whose error's first line they are now."""
    entries: list[Any] = getattr(getattr(report.longrepr, "reprtraceback", None), "reprentries", [])
    shown: list[str] = getattr(entries[-1], "lines", []) if entries else []
    for number, one in enumerate(shown, 1):
        if margin := re.match("E +", one):  # as wide as that of the code above, or less with --tb=short
            shown[number:number] = [f"{margin[0]}{text}" for text in lines]
            return True
    return False


def _of(vm: "VirtualMachine", machines: "Sequence[VirtualMachine]") -> str:
    return f"{vm.name}: " if len(machines) > 1 else ""


def _command(result: "CommandResult") -> str:
    from pytest_readonly_vm.command_result import KEPT
    from pytest_readonly_vm.guest.commands import shortened, stream_notes

    head = f"exit code {result.exit_code} after {result.duration:.2f} s from: {shortened(result.command)}"
    return note("\n".join([head, *stream_notes(result.stdout_bytes, result.stderr_bytes, most=KEPT)]))


def _tells_of_console(error: BaseException, message: str, vm: "VirtualMachine") -> bool:
    """Whether the notes of an error have what the machine's console said."""
    from pytest_readonly_vm.channels.console import HEADS

    is_about = message.startswith(f"{vm.name}: ")
    return is_about and any(one.startswith(HEADS) for one in getattr(error, "__notes__", ()))
