"""Owns what the machines of one run share: the loop, the process spawner, the workspace, the open base images."""

import contextlib
import itertools
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.errors import BaseImageChanged, ConfigurationError, VmError
from pytest_readonly_vm.guest.files import Progress
from pytest_readonly_vm.host.cleanup import Cleanup
from pytest_readonly_vm.host.hypervisor import Hypervisor, find_hypervisor
from pytest_readonly_vm.host.loop import LoopThread
from pytest_readonly_vm.host.once import Once
from pytest_readonly_vm.host.os_errors import host_errors
from pytest_readonly_vm.host.process import Spawner
from pytest_readonly_vm.host.ssh_key import make_key
from pytest_readonly_vm.host.workspace import Workspace
from pytest_readonly_vm.image.base import BaseImage, open_base
from pytest_readonly_vm.image.output_guard import OutputGuard
from pytest_readonly_vm.machine.budget import Admission
from pytest_readonly_vm.machine.lineage import Lineage
from pytest_readonly_vm.machine.vm import VirtualMachine
from pytest_readonly_vm.qemu.instance import Instance
from pytest_readonly_vm.qemu.launch import Order
from pytest_readonly_vm.start.archive import Archives
from pytest_readonly_vm.start.cold import discard
from pytest_readonly_vm.start.prefetch import Prefetch
from pytest_readonly_vm.start.strategies import Auto, Clone, Cold, Start
from pytest_readonly_vm.start.templates import Templates

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Boot:
    """A start that succeeded: whose, its duration and phases in seconds, the accelerator and why it, the channel."""

    name: str
    manner: str
    """How it came to be: ``boot``, ``clone``, ``capsule``."""
    reason: str
    """Why in no better way, if there is a reason."""
    seconds: float
    phases: dict[str, float]
    accelerator: str
    channel: str | None


class Lab:
    """Where machines are started. A context manager; leaving it ends every machine and removes every file.

    Nothing is opened or started before the first machine needs it. Several threads may start machines at once.
    """

    def __init__(
        self,
        progress: Progress = lambda what, done, size: None,
        tell: Callable[[str], None] = lambda sentence: None,
        on_failure: Callable[[VirtualMachine, BaseException], None] = lambda vm, error: None,
        on_unmade: Callable[[VmConfig, BaseException], None] = lambda config, error: None,
        output_guard: OutputGuard | None = None,
    ) -> None:
        """`progress` is told of long transfers, on the loop's thread; `tell` what people should know of, on any.

        `on_failure` gets each machine that was wanted and did not become ready, before it is discarded; `on_unmade`, if
        it is for a layer, the configuration up to that one. `output_guard` knows what else is not to be written over,
        beside what the lab reads.
        """
        self.output_guard = output_guard or OutputGuard()
        self.boots: list[Boot] = []
        self._progress = progress
        self._tell = tell
        self._on_failure = on_failure
        self._on_unmade = on_unmade
        self._admission = Admission(tell)
        self._users = ExitStack()
        self._machines: list[VirtualMachine] = []
        self._launched: dict[Instance, Order] = {}
        self._stack = ExitStack()
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._loops: Once[None, LoopThread] = Once()
        self._spawners: Once[None, Spawner] = Once()
        self._keys: Once[None, Path] = Once()
        self._workspaces: Once[Path | None, Workspace] = Once()
        self._hypervisors: Once[tuple[object, ...], Hypervisor] = Once()
        self._usual_channels: dict[tuple[Path | None, Path | None], str] = {}
        self._bases: Once[tuple[Path, str | None], BaseImage] = Once()
        self._watched: set[BaseImage] = set()
        self._digests: Once[BaseImage, tuple[str, ...]] = Once()
        self._templates = Templates(Archives(tell).of, self._record)
        auto = Auto(self._templates)
        self._starts: dict[str, Start] = {"cold": Cold(), "clone": Clone(self._templates), "auto": auto}
        self._prefetch = Prefetch(self._start_ahead, lambda instance: discard(self._loop, instance))
        self._users.callback(self._prefetch.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End what is still running and remove what is still there, all of it, whatever fails."""
        with Cleanup() as cleanup:
            for vm in self._machines:
                with cleanup.step(), contextlib.suppress(VmError):  # the spawner ends what did not end by itself
                    vm.close()
            for close in (self._users.close, self._templates.close, self._stack.close):  # the users hold machines
                with cleanup.step():
                    close()

    @property
    def _loop(self) -> LoopThread:
        return self._loops.get(None, lambda: self._closed_by(LoopThread(), LoopThread.close))

    @property
    def _spawner(self) -> Spawner:
        return self._spawners.get(None, lambda: self._closed_by(Spawner(self._loop), Spawner.close))

    def _closed_by(self, opened: T, close: Callable[[T], object]) -> T:
        self._stack.callback(close, opened)
        return opened

    def start(self, config: VmConfig, *, name: str) -> VirtualMachine:
        """Start a machine and return it when its guest is ready. The caller closes it; `close` does so at the latest.

        :raises ConfigurationError: the settings make no sense together or on this computer.
        :raises HostError: this computer lacks something.
        :raises ImageError: the base image is refused.
        :raises BaseImageChanged: it was found changed earlier in this run.
        :raises StartFailed: QEMU did not come up.
        :raises GuestDied: it ended while the guest was booting.
        :raises BootTimeout: the guest did not become ready in time.
        """
        config.check()
        _refuse_what_is_not_there(config)
        order = self._order(config, name)
        ahead = self._prefetch.take(config, name, is_wanted=lambda: self._templates.has(order))
        vm = self._adopt(order, ahead or self._starts[config.start].start(order))
        try:
            vm.prove_pristine()
        except BaseException:
            vm.close()
            raise
        return vm

    def expect(self, wanted: Sequence[tuple[VmConfig, str]]) -> None:
        """Begin to start machines, to be there when `start` asks for them; end what was expected and is not any more.

        Nothing is started where that would be no gain: if a machine is not a copy of one that has booted.
        """
        with contextlib.suppress(VmError), host_errors("nothing is started ahead"):  # which `start` does then
            self._prefetch.expect([one for one in wanted if self._has_template(one[0])])

    def _has_template(self, config: VmConfig) -> bool:
        try:
            return config.start in ("auto", "clone") and self._templates.has(self._order(config, ""))
        except (VmError, OSError):  # which `start` will raise for who wants the machine
            return False

    @host_errors("no machine can be started")
    def _order(self, config: VmConfig, name: str, *, spare: bool = False) -> Order:
        hypervisor = self._hypervisor(config)
        base = self._base(config, hypervisor)
        self.output_guard.protect(config, base.chain if base else ())
        workspace, loop, spawner = self._workspace(config), self._loop, self._spawner
        order = Order(
            config=config,
            name=name,
            hypervisor=hypervisor,
            base=base,
            new_folder=lambda: workspace.machine_folder(next(self._numbers)),
            loop=loop,
            spawner=spawner,
            output_guard=self.output_guard,
            ssh_key=lambda: self._ssh_key(workspace),
            handle=lambda instance: self._handle(order, instance),
            slot=lambda: self._admission.slot(config, name, spare=spare),
            usual_channel=self._usual_channels.get((config.image, config.kernel)),
            on_launch=lambda instance: None if spare else self._note_launch(order, instance),
            on_failure=lambda instance, error: spare or self._on_failure(self._handle(order, instance), error),
            on_unmade=lambda layered, error: spare or self._on_unmade(layered, error),
        )
        return order

    def _note_launch(self, order: Order, instance: Instance) -> None:
        self._launched[instance] = order
        instance.on_end.append(lambda: self._launched.__delitem__(instance))

    def on_their_way(self) -> list[VirtualMachine]:
        """The machines that `start` is waiting for at this moment, on whatever thread. None of them is ready."""
        launched = tuple(self._launched.items())
        return [self._handle(order, instance) for instance, order in launched if not instance.ready_after]

    def _start_ahead(self, config: VmConfig, name: str) -> Instance:
        return self._starts[config.start].start(self._order(config, name, spare=True))

    def _handle(self, order: Order, instance: Instance) -> VirtualMachine:
        lineage = Lineage(order=order, start=self._starts[order.config.start], adopt=self._adopt, record=self._record)
        return VirtualMachine(instance, lineage, progress=self._progress)

    def _adopt(self, order: Order, instance: Instance) -> VirtualMachine:
        """Keep one more machine, which ends with the lab at the latest."""
        vm = self._handle(order, instance)
        with self._lock:
            self._machines = [*(other for other in self._machines if not other.closed), vm]
        config = order.config
        if vm.channel:
            self._usual_channels[config.image, config.kernel] = vm.channel
        self._record(order, instance)
        return vm

    def _record(self, order: Order, instance: Instance) -> None:
        start = instance.qmp.history.note("start", instance.manner, seconds=instance.ready_after)
        start.time = time.time() - (time.monotonic() - instance.started)  # it may have been started ahead
        found = instance.channels.found
        times = (instance.ready_after, instance.boot_phases)
        means = (order.hypervisor.accelerator.describe(), found.name if found else None)
        self.boots.append(Boot(instance.name, instance.manner, instance.reason, *times, *means))

    def _workspace(self, config: VmConfig) -> Workspace:
        place = config.tmpdir
        return self._workspaces.get(place, lambda: self._closed_by(Workspace(place), Workspace.close))

    def _ssh_key(self, workspace: Workspace) -> Path:
        return self._keys.get(None, lambda: make_key(workspace.path))

    def _hypervisor(self, config: VmConfig) -> Hypervisor:
        return self._hypervisors.get((config.qemu, config.accel, config.seal), lambda: find_hypervisor(config))

    def _base(self, config: VmConfig, hypervisor: Hypervisor) -> BaseImage | None:
        image = config.image
        if image is None:
            return None

        def opened() -> BaseImage:
            base = open_base(image, format=config.format, origin=config.origin("image"), qemu_img=hypervisor.qemu_img)
            return self._closed_by(base, BaseImage.close)

        base = self._bases.get((image, config.format), opened)
        if base.broken:
            raise BaseImageChanged(f"{config.image} is not used any more: {base.broken}")
        if config.verify != "off":
            self._watched.add(base)
        if config.verify == "hash":
            self._digests.get(base, base.sha256)
        return base

    def check_bases(self, *, during: str) -> tuple[Path, ...]:
        """Compare every base in use with what it was when it was opened; return those that were compared.

        Costs microseconds. A base that changed is not used for further machines, nor is a frozen guest whose disk did.

        :param during: what ran meanwhile, for the message: a test's node id.
        :raises BaseImageChanged: one is not what it was.
        """
        sound, found = [], []
        for base in [base for base in tuple(self._watched) if not base.broken]:
            if difference := base.difference():
                base.broken = f"{difference} while {during} ran"
                found.append(base.broken)
            else:
                sound.append(base.path)
        if found:
            raise BaseImageChanged(f"the base image is no longer what it was: {'; '.join(found)}")
        if changed := self._templates.take_changed():
            raise BaseImageChanged(f"{'; '.join(changed)} while {during} ran")
        return tuple(sound)

    @property
    def broken_bases(self) -> dict[Path, str]:
        """What happened to each base that was found changed so far."""
        return {base.path: base.broken for base in tuple(self._watched) if base.broken}

    def identity(self, image: Path | None) -> dict[str, str]:
        """By what a base image can be told from another: its ``fingerprint``; with ``verify=hash`` its ``sha256``."""
        digests = self._digests.made()
        for base in self._bases.made().values():
            if base.path == image:
                if base in digests:
                    return {"sha256": digests[base][0]}
                found = base.chain[0].fingerprint
                return {"fingerprint": f"size={found.size} mtime_ns={found.mtime_ns} inode={found.inode}"}
        return {}

    def compare_digests(self) -> dict[Path, str]:
        """Read every base that was opened with ``verify=hash`` once more: what is to complain of each, or nothing."""
        complaints = {}
        for base, before in self._digests.made().items():
            compared = zip(base.chain, before, base.sha256(), strict=True)
            changed = [f"{at.path} has the SHA-256 {new} and had {old}" for at, old, new in compared if old != new]
            complaints[base.path] = f"{'; '.join(changed)} when it was opened" if changed else ""
        return complaints


def _refuse_what_is_not_there(config: VmConfig) -> None:
    for name in ("image", "kernel", "initrd"):
        path = getattr(config, name)
        try:
            _ = path and path.stat()
        except OSError as error:
            raise ConfigurationError(f"{config.origin(name)}: {name}: {path}: {error.strerror}") from None
    there_is = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if config.memory > there_is:
        raise ConfigurationError(
            f"{config.origin('memory')}: memory: {config.memory >> 20}M is more than this computer has "
            f"({there_is >> 20}M)"
        )
