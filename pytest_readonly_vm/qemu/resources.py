"""Owns what the machines of one run share: the loop, the process spawner, the workspace, the SSH key, the budget."""

import itertools
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.host.hypervisor import Hypervisor, find_hypervisor
from pytest_readonly_vm.host.loop import LoopThread
from pytest_readonly_vm.host.once import Once
from pytest_readonly_vm.host.process import Spawner
from pytest_readonly_vm.host.slots import Slot
from pytest_readonly_vm.host.ssh_key import make_key
from pytest_readonly_vm.host.workspace import Workspace
from pytest_readonly_vm.image.output_guard import OutputGuard
from pytest_readonly_vm.qemu.budget import Admission
from pytest_readonly_vm.qemu.instance import Instance
from pytest_readonly_vm.qemu.spec import MachineSpec

T = TypeVar("T")


class Resources:
    """Given out to machines. Nothing is opened or started before the first machine needs it; any thread may ask."""

    def __init__(self, output_guard: OutputGuard, tell: Callable[[str], None]) -> None:
        """`tell` is given a sentence when a machine has to wait for the budget."""
        self.output_guard = output_guard
        self.running: set[Instance] = set()
        """Those whose QEMU has been started and not ended, but for spare ones."""
        self._admission = Admission(tell)
        self._opened = ExitStack()
        self._numbers = itertools.count(1)
        self._loops: Once[None, LoopThread] = Once()
        self._spawners: Once[None, Spawner] = Once()
        self._keys: Once[None, Path] = Once()
        self._workspaces: Once[Path | None, Workspace] = Once()
        self._hypervisors: Once[tuple[object, ...], Hypervisor] = Once()

    @property
    def loop(self) -> LoopThread:
        return self._loops.get(None, lambda: self.closing(LoopThread(), LoopThread.close))

    @property
    def spawner(self) -> Spawner:
        return self._spawners.get(None, lambda: self.closing(Spawner(self.loop), Spawner.close))

    def closing(self, opened: T, close: Callable[[T], object]) -> T:
        """Have `close` called in the end on what has been opened, in reverse order."""
        self._opened.callback(close, opened)
        return opened

    def hypervisor(self, config: VmConfig) -> Hypervisor:
        """With what such machines run.

        :raises HostError: something is missing.
        """
        return self._hypervisors.get((config.qemu, config.accel, config.seal), lambda: find_hypervisor(config))

    def new_folder(self, config: VmConfig) -> Path:
        """A folder that is one machine's own.

        :raises OutOfSpace: there is too little room for one.
        """
        return self._workspace(config).machine_folder(next(self._numbers))

    def ssh_key(self, config: VmConfig) -> Path:
        """The run's private key, made when first asked for."""
        return self._keys.get(None, lambda: make_key(self._workspace(config).path))

    def _workspace(self, config: VmConfig) -> Workspace:
        place = config.tmpdir
        return self._workspaces.get(place, lambda: self.closing(Workspace(place), Workspace.close))

    def slot(self, spec: MachineSpec) -> Slot:
        """Wait until this computer has room for one more machine.

        :raises VmError: there is none for a spare one.
        """
        return self._admission.slot(spec.config, spec.name, spare=spec.is_spare)

    def note_running(self, instance: Instance) -> None:
        """Have an instance among the `running` ones until it ends."""
        if not instance.spec.is_spare:
            self.running.add(instance)
            instance.on_end.append(lambda: self.running.discard(instance))

    def close(self) -> None:
        """Give everything back."""
        self._opened.close()
