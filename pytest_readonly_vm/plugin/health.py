"""Owns when health gates look at the machines of a test, and the failure of a test that passed in a sick guest.

A machine is looked at when the test gets it, and when the test's function has returned; what comes in between counts.
Machines whose setting ``health`` is empty are left alone.
"""

from collections.abc import Generator
from functools import partial
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, ref

import pytest

from pytest_readonly_vm.errors import GuestUnhealthy
from pytest_readonly_vm.host.stopwatch import Part
from pytest_readonly_vm.plugin.failure import UNHEALTHY
from pytest_readonly_vm.plugin.owners import machines_of
from pytest_readonly_vm.plugin.run import Run
from pytest_readonly_vm.printable import note

if TYPE_CHECKING:
    from pytest_readonly_vm.evidence.health import Mark
    from pytest_readonly_vm.machine.vm import VirtualMachine

_LINES_SHOWN = 50
_PATIENCE_WITH_FAILED = 3.0  # seconds


class Gates:
    """The health gates of one pytest process."""

    def __init__(self, run: Run) -> None:
        self._marks: dict[VirtualMachine, Mark] = {}
        """Of the present test."""
        self._earlier: WeakKeyDictionary[VirtualMachine, list[Mark]] = WeakKeyDictionary()
        """All of each machine, from when it had just been started."""
        self._stopwatch = run.stopwatch
        run.on_start.append(self._begin)

    def _begin(self, vm: "VirtualMachine") -> None:
        if vm.config.health:
            from pytest_readonly_vm.evidence.health import begin

            with self._stopwatch.part(Part.HEALTH):
                mark = begin(vm)
            if mark is not None:
                self._marks[vm] = mark
                if vm not in self._earlier:
                    # What the guest says then may be of an earlier time by its clock than what this one has said.
                    vm.on_reset.append(partial(self._begin_anew, ref(vm)))
                self._earlier.setdefault(vm, []).append(mark)

    def _begin_anew(self, vm: "ref[VirtualMachine]") -> None:
        if (found := vm()) is not None:
            self._begin(found)

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Before the fixtures. The machines that the test shares are there; those of its own come when they start."""
        self._marks.clear()
        for vm in machines_of(item):
            self._begin(vm)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        try:
            result = yield
        except pytest.exit.Exception:
            raise
        except (Exception, pytest.fail.Exception):
            for vm, lines in self._complaints(item, patience=_PATIENCE_WITH_FAILED).items():
                item.add_report_section("call", f"health gates of {vm.name}", _shown(lines))
            raise
        if found := self._complaints(item):
            raise _unhealthy(found)
        return result

    def _complaints(self, item: pytest.Item, *, patience: float | None = None) -> "dict[VirtualMachine, list[str]]":
        if not self._marks:
            return {}
        from pytest_readonly_vm.evidence.health import complaints

        looked_at = [vm for vm in machines_of(item) if vm in self._marks and not vm.closed]
        with self._stopwatch.part(Part.HEALTH):
            found = {vm: complaints(vm, self._mark_of(vm), patience=patience) for vm in looked_at}
        return {vm: lines for vm, lines in found.items() if lines}

    def _mark_of(self, vm: "VirtualMachine") -> "Mark":
        """That of the test; of a guest that was set back to a moment before it, the last one before that moment."""
        mark = self._marks[vm]
        moments = [one for one in vm.history.entries() if one.kind == "state" and one.time >= mark.taken]
        then = min([mark.taken, *(float(str(one.detail["to"])) for one in moments if "to" in one.detail)])
        earlier = self._earlier[vm]
        return next((one for one in reversed(earlier) if one.taken <= then), earlier[0])


def _unhealthy(found: "dict[VirtualMachine, list[str]]") -> GuestUnhealthy:
    vm, lines = next(iter(found.items()))
    more = sum(map(len, found.values())) - 1
    others = f" (and {more} more)" if more else ""
    error = GuestUnhealthy(f"{vm.name}: {UNHEALTHY}{lines[0]}{others}")
    for vm, lines in found.items():
        error.add_note(f"What {vm.name} has shown since the test got it:\n{_shown(lines)}")
    error.add_note("What is known and harmless: --vm-health-allow=REGEX, @pytest.mark.vm(health_allow=[REGEX, …])")
    return error


def _shown(lines: list[str]) -> str:
    left = len(lines) - _LINES_SHOWN
    return note("\n".join(lines[:_LINES_SHOWN] + ([f"… and {left} more"] if left > 0 else [])))
