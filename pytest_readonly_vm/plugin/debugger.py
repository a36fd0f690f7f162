"""Owns what happens to machines while a debugger is open: ways in are opened and shown, then the guests stand still."""

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from pytest_readonly_vm.errors import VmError
from pytest_readonly_vm.plugin.owners import machines_of
from pytest_readonly_vm.plugin.run import Run

if TYPE_CHECKING:
    from pytest_readonly_vm.machine.vm import VirtualMachine


class Debugger:
    """Hears of pytest's debugger: ``--pdb``, ``--trace``, ``breakpoint()``, ``VirtualMachine.debug``."""

    def __init__(self) -> None:
        self._visited: list[VirtualMachine] = []
        self._paused: list[VirtualMachine] = []
        self._standing = ExitStack()

    def pytest_enter_pdb(self, config: pytest.Config) -> None:
        """Nothing that fails here keeps the debugger from opening."""
        run = Run.of(config)
        if run.current is None or self._visited:
            return
        for vm in machines_of(run.current):
            if not vm.closed and vm.is_running():
                self._visited.append(vm)
                try:
                    self._receive(vm, run)
                except VmError as error:
                    run.tell(f"{vm.name}: {error}")

    def _receive(self, vm: "VirtualMachine", run: Run) -> None:
        from pytest_readonly_vm.machine.attach import open_doors

        for line in (*vm.how_to_connect().splitlines(), *(f"  {line}" for line in open_doors(vm))):
            run.tell(line)
        if vm.qmp.execute("query-status")["running"]:
            self._standing.enter_context(vm.qmp.liveness.expecting_stop(for_long=True))
            vm.pause()
            self._paused.append(vm)
            run.tell(
                f"{vm.name} stands still while the debugger is open; its method resume() lets it go on, as a shell in "
                "it needs"
            )

    def pytest_leave_pdb(self, config: pytest.Config) -> None:
        from pytest_readonly_vm.machine.attach import close_doors

        for vm in self._paused:
            try:
                vm.resume()
            except VmError as error:
                Run.of(config).tell(f"{vm.name}: {error}")
        for vm in self._visited:
            if not vm.closed and vm.is_running():
                close_doors(vm)
        self._standing.close()
        self._visited, self._paused = [], []
