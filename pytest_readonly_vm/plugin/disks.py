"""Owns what a test run does with faults of disks: their end with the test, what reports say of them."""

from collections.abc import Generator, Iterable
from typing import TYPE_CHECKING

import pytest

from pytest_readonly_vm.host.cleanup import Cleanup
from pytest_readonly_vm.plugin.owners import machines_of
from pytest_readonly_vm.plugin.run import Run
from pytest_readonly_vm.printable import line

if TYPE_CHECKING:
    from pytest_readonly_vm.machine.virtual_disk import VirtualDisk

_has_failed = pytest.StashKey[bool]()


class DiskKeeper:
    """Ends with each test what it has begun on disks, and tells of it. Without such it does nothing."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._told: list[str] = []

    def _disks(self) -> "list[VirtualDisk]":
        """Those to which the present test has done something, of whosever machine."""
        machines = self._run.lab.machines if self._run.has_lab else []
        return [disk for vm in machines if vm.has_used_disks for disk in vm.disks.values() if disk.done]

    # As a plugin.

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, object, object]:
        """Before anything of a test is torn down, its disks are whole again, and faults without use are told."""
        with Cleanup() as cleanup:
            for error in self._end_test(item) if self._disks() else ():
                with cleanup.step():
                    raise error
            with cleanup.step():
                yield
        return None

    def _end_test(self, item: pytest.Item) -> list[BaseException]:
        failed = item.stash.get(_has_failed, False)
        errors: list[BaseException] = []
        for disk in self._disks():
            done = disk.done
            errors += disk.end_test(failed=failed)
            self._told += _words(disk, map(str, done))
        if errors:
            first = line(str(errors[0]).partition("\n")[0])
            self._run.evidence.save_first(item, machines_of(item), f"teardown: {first}")
        return errors

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Add what was done to disks, to the report of any test, and with a failure what it has come to by then."""
        report = yield
        if call.when == "setup":
            item.stash[_has_failed] = False
        if call.excinfo is not None:
            item.stash[_has_failed] = True
        told = self._told
        if report.failed and report.when != "teardown":
            told = [words for disk in self._disks() for words in _words(disk, disk.told())]
        if told and (report.failed or report.when == "teardown"):
            report.sections.append(("What was done to disks", "\n".join(told)))
        if report.when == "teardown":
            report.user_properties += [("vm_disk", words) for words in self._told]
            self._told = []
        return report


def _words(disk: "VirtualDisk", faults: Iterable[str]) -> list[str]:
    return [line(f"{disk.vm.name}: {fault}") for fault in faults]
