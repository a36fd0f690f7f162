"""Owns the line that says where the time of a run went, in parts that add up to it.

What a stopwatch has measured while a phase of a test ran is taken off the duration that pytest gives of the phase. So
what remains there is the test's own, and that of fixtures; what remains of the run is the rest.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from pytest_readonly_vm.printable import count

_PHASES = {"setup": "other fixtures", "call": "tests", "teardown": "other fixtures"}
_LONG = 10.0
"""Seconds of a run from which on tenths of them are told, and not hundredths."""


class TimeSpent:
    """Adds up what one process has measured, or all workers of xdist have."""

    def __init__(self) -> None:
        self._parts: defaultdict[str, float] = defaultdict(float)
        self._lost = 0
        self._is_interrupted = False

    def take_phase(self, report: pytest.TestReport, parts: Mapping[str, float]) -> None:
        """What was measured in the phase of a test that a report is on, so that the duration in the report has it."""
        self.take(parts)
        self._parts[_PHASES[report.when]] -= sum(parts.values())

    def take(self, parts: Mapping[str, float]) -> None:
        """What was measured between such phases."""
        for name, seconds in parts.items():
            self._parts[name] += seconds

    def lose_worker(self) -> None:
        """A worker has died, and what it did since its last report is not known."""
        self._lost += 1

    def interrupt(self) -> None:
        """The run ends in the midst of a test, on which there is no report."""
        self._is_interrupted = True

    def line(self, elapsed: float, reports: Iterable[Any], *, workers: int) -> str | None:
        """The line; None where tests ran beside each other, whose times do not add up.

        :param elapsed: the seconds since the session began.
        :param reports: all of the run, whatever else is among them.
        :param workers: how many of xdist there are at a time, or 0.
        """
        parts = self._parts.copy()
        for report in reports:
            # One on a subtest, which has a context, tells of time that is in the test's own as well.
            if isinstance(report, pytest.TestReport) and report.when in _PHASES and not hasattr(report, "context"):
                parts[_PHASES[report.when]] += report.duration
        processes = max(workers, 1)
        if sum(parts.values()) > elapsed * processes:
            return None
        digits = 1 if elapsed >= _LONG else 2
        total = round(elapsed, digits) * processes
        in_order = dict(sorted(parts.items(), key=lambda part: -part[1]))
        shown = _rounded({**in_order, self._rest(workers): total - sum(parts.values())}, digits)
        told = ", ".join(f"{name} {seconds:.{digits}f}" for name, seconds in shown.items())
        whose = f" of {count(workers, 'worker')}" if workers else ""
        each = f", {elapsed:.{digits}f} s each" if workers > 1 else ""
        return f"time {total:.{digits}f} s{whose}{each}: {told}"

    def _rest(self, workers: int) -> str:
        """What is in that of which nobody has told."""
        known = (
            (workers, "the workers' start and idleness"),
            (self._lost, f"what {count(self._lost, 'dead worker')} did last"),
            (self._is_interrupted, "the test that was interrupted"),
        )
        words = " and ".join(words for is_so, words in known if is_so)
        return f"everything else{f' ({words})' if words else ''}"


def _rounded(parts: Mapping[str, float], digits: int) -> dict[str, float]:
    """Those that are not nothing, rounded so that they still add up: up where most was cut off."""
    units = {name: seconds * 10**digits for name, seconds in parts.items()}
    whole = {name: int(exact) for name, exact in units.items()}
    missing = round(sum(units.values())) - sum(whole.values())
    for name in sorted(units, key=lambda name: whole[name] - units[name])[:missing]:
        whole[name] += 1
    return {name: number / 10**digits for name, number in whole.items() if number}
