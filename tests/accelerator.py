"""Owns under which accelerator the machines of the suite run, and the suite's word of which one they did.

TCG by default, which is the same on every computer. ``READONLY_VM_TEST_ACCEL=kvm`` is for computers that must have
KVM: it is asked for by name, so no machine can fall back to TCG, and a run that cannot have it ends before its first
test.
"""

import os
from collections import Counter

import pytest

from pytest_readonly_vm.errors import HostError
from pytest_readonly_vm.host.accel import choose
from pytest_readonly_vm.host.qemu_binary import find_qemu
from pytest_readonly_vm.plugin.news import NEWS

VARIABLE = "READONLY_VM_TEST_ACCEL"

ACCEL = os.environ.get(VARIABLE) or "tcg"
"""What tests give for the setting ``accel``, but for those that are about an accelerator."""


def required() -> str:
    """The accelerator of this run, described, if it can be had.

    :raises pytest.UsageError: it cannot, and why; or there is none of this name.
    """
    if ACCEL not in ("kvm", "tcg"):
        raise pytest.UsageError(f"{VARIABLE}: {ACCEL!r} is neither kvm nor tcg")
    if ACCEL == "tcg":
        return f"tcg, on every computer ({VARIABLE}=kvm for KVM)"
    try:
        return choose(ACCEL, find_qemu(None, origin="the default"), origin=VARIABLE).describe()
    except HostError as error:
        raise pytest.UsageError(str(error)) from error


class Witness:
    """Says at the head and at the end of a run which accelerator it is, and fails one that was to be KVM and was not.

    It counts the machines of the plugin's fixtures, of which the tests' reports tell, those of xdist's workers too.
    """

    def __init__(self) -> None:
        self._required = ""
        self._machines: Counter[str] = Counter()

    def pytest_sessionstart(self) -> None:
        self._required = required()

    def pytest_report_header(self) -> str:
        return f"accelerator of the suite: {self._required}"

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for start in vars(report).get(NEWS, {}).get("boots", ()):
            self._machines[start["accelerator"].partition(" ")[0]] += 1

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._is_broken() and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self._machines:
            return
        used = ", ".join(f"{name} by {number} machines" for name, number in sorted(self._machines.items()))
        if set(self._machines) == {"kvm"}:
            terminalreporter.write_line(f"KVM was used: {used}", green=True)
            return
        terminalreporter.write_line(f"KVM was NOT used: {used}", red=self._is_broken(), bold=True)
        if os.environ.get("GITHUB_ACTIONS") == "true":  # there, an annotation that the job's page shows
            level = "error" if self._is_broken() else "warning"
            terminalreporter.write_line(f"::{level} title=KVM was NOT used::{ACCEL} was asked for, used were {used}")

    def _is_broken(self) -> bool:
        return ACCEL == "kvm" and bool(set(self._machines) - {"kvm"})
