"""Owns what the machines of one run share: the loop, the process spawner, the workspace, the SSH key, the budget."""

import itertools
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.config.values import size
from pytest_readonly_vm.errors import VmError
from pytest_readonly_vm.host.budget import Budget
from pytest_readonly_vm.host.folders import make_private
from pytest_readonly_vm.host.hypervisor import Hypervisor, find_hypervisor
from pytest_readonly_vm.host.loop import LoopThread
from pytest_readonly_vm.host.once import OncePerKey
from pytest_readonly_vm.host.process import Spawner
from pytest_readonly_vm.host.qemu_binary import find_qemu_img
from pytest_readonly_vm.host.slots import Slot, Slots, processes_in
from pytest_readonly_vm.host.ssh_key import make_key
from pytest_readonly_vm.host.stopwatch import Part, Stopwatch
from pytest_readonly_vm.host.workspace import Workspace
from pytest_readonly_vm.image.output_guard import OutputGuard
from pytest_readonly_vm.qemu.instance import Instance

T = TypeVar("T")

_PLACE = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path("/tmp")
"""The same for all processes of a user on this computer, whatever their TMPDIR."""


class Resources:
    """Given out to machines. Nothing is opened or started before the first machine needs it; any thread may ask."""

    def __init__(self, output_guard: OutputGuard, tell: Callable[[str], None], stopwatch: Stopwatch) -> None:
        """`tell` is given a sentence when a machine has to wait for the budget; `stopwatch` measures who waits."""
        self.output_guard = output_guard
        self.running: set[Instance] = set()
        self.spare: set[Instance] = set()
        """Those whose QEMU has been started and not ended, but for spare ones."""
        self.stopwatch = stopwatch
        self._tell = tell
        self._opened = ExitStack()
        self._numbers = itertools.count(1)
        self._loops: OncePerKey[None, LoopThread] = OncePerKey()
        self._spawners: OncePerKey[None, Spawner] = OncePerKey()
        self._keys: OncePerKey[None, Path] = OncePerKey()
        self._workspaces: OncePerKey[Path | None, Workspace] = OncePerKey()
        self._slots: OncePerKey[str, Slots] = OncePerKey()
        self._qemu_imgs: OncePerKey[str | None, Path] = OncePerKey()
        self._hypervisors: OncePerKey[tuple[object, ...], Hypervisor] = OncePerKey()

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

    def qemu_img(self, config: VmConfig) -> Path:
        """What looks at images, and makes them, for such machines; known before their emulator is.

        :raises HostError: there is none.
        """
        return self._qemu_imgs.get(config.qemu, lambda: find_qemu_img(config.qemu))

    def hypervisor(self, config: VmConfig, arch: str) -> Hypervisor:
        """With what such machines run, of an architecture in QEMU's words.

        :raises HostError: something is missing.
        """
        wanted = (config.qemu, arch, config.accel, config.seal)
        return self._hypervisors.get(wanted, lambda: find_hypervisor(config, arch=arch, qemu_img=self.qemu_img(config)))

    def new_folder(self, config: VmConfig) -> Path:
        """A folder that is one machine's own.

        :raises OutOfSpace: there is too little room for one.
        """
        return self._workspace(config).machine_folder(next(self._numbers))

    def run_folder(self, config: VmConfig) -> Path:
        """The run's own, by whose name later runs know what this one has left."""
        return self._workspace(config).path

    def ssh_key(self, config: VmConfig) -> Path:
        """The run's private key, made when first asked for."""
        return self._keys.get(None, lambda: make_key(self._workspace(config).path))

    def _workspace(self, config: VmConfig) -> Workspace:
        place = config.tmpdir
        return self._workspaces.get(place, lambda: self.closing(Workspace(place), Workspace.close))

    def slots(self, configs: Sequence[VmConfig], name: str, *, spare: bool) -> list[Slot]:
        """Wait until this computer has room for so many machines more: one for each, asked for as one.

        :param spare: whether they are some before their time, for which nobody waits.
        :raises VmError: there is no room for spare ones.
        :raises HostError: the folder in which all runs meet cannot be used.
        """
        budget = configs[0].budget
        if budget == "off":
            return [Slot(lambda: None) for _ in configs]
        slots = self._slots.get(budget, lambda: _slots(budget))
        memory, cpus = sum(config.memory for config in configs), sum(config.cpus for config in configs)
        if not spare:
            with self.stopwatch.part(Part.ROOM):
                return slots.take(memory, cpus, label=name, on_wait=self._tell).parts(len(configs))
        if (slot := slots.take_spare(memory, cpus)) is None:
            raise VmError("this computer has no room for a machine before its time")
        return slot.parts(len(configs))

    def note_running(self, instance: Instance) -> None:
        """Have an instance among the `running` ones until it ends, or among the `spare` ones."""
        some = self.spare if instance.spec.is_spare else self.running
        some.add(instance)
        instance.on_end.append(lambda: some.discard(instance))

    def close(self) -> None:
        """Give everything back."""
        self._opened.close()


def in_the_budget() -> tuple[set[int], set[int]]:
    """The processes of this user that have room for machines, and those that wait for some; see `processes_in`."""
    return processes_in(_folder())


def _folder() -> Path:
    return _PLACE / f"pytest-readonly-vm-{os.getuid()}.slots"


def _slots(budget: str) -> Slots:
    folder = _folder()
    make_private(folder, advice="use --vm-budget=off")
    return Slots(folder, _budget(budget))


def _budget(wanted: str) -> Budget:
    """The budget that a checked value of the setting means; what it leaves open is that of the host."""
    host = Budget.of_host()
    if wanted == "auto":
        return host
    memory, _, cpus = wanted.partition(",")
    return Budget(size(memory), int(cpus) if cpus else host.cpus)
