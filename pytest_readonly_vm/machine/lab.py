"""Owns the machines of one run: where they are started, and that none outlives it."""

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

from pytest_readonly_vm.channels.history import History
from pytest_readonly_vm.config.image_reference import ImageReference
from pytest_readonly_vm.config.layer import GuestLayer
from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.errors import BaseImageChanged, VmError
from pytest_readonly_vm.guest.files import Progress
from pytest_readonly_vm.host.cleanup import Cleanup
from pytest_readonly_vm.host.os_errors import host_errors
from pytest_readonly_vm.host.stopwatch import Stopwatch
from pytest_readonly_vm.host.watch import Watch, nobody
from pytest_readonly_vm.image.bases import Bases, Compare
from pytest_readonly_vm.image.layout import Layouts
from pytest_readonly_vm.image.network_file import Where
from pytest_readonly_vm.image.output_guard import OutputGuard
from pytest_readonly_vm.machine.checkpoints import Keeper
from pytest_readonly_vm.machine.cluster import Cluster, ClusterKeeper, Thawed, around, discard
from pytest_readonly_vm.machine.clusters import Clusters
from pytest_readonly_vm.machine.made import Boot, LayerMade
from pytest_readonly_vm.machine.networks import Networks
from pytest_readonly_vm.machine.places import cablings, give_back, take_places
from pytest_readonly_vm.machine.presence import checked
from pytest_readonly_vm.machine.private_network import PrivateNetwork
from pytest_readonly_vm.machine.vm import VirtualMachine
from pytest_readonly_vm.qemu.architecture import choose_arch
from pytest_readonly_vm.qemu.board import refuse_what_it_has_not
from pytest_readonly_vm.qemu.disk_spec import disk_specs
from pytest_readonly_vm.qemu.firmware import Firmware, Firmwares
from pytest_readonly_vm.qemu.instance import Instance
from pytest_readonly_vm.qemu.resources import Resources
from pytest_readonly_vm.qemu.spec import MachineSpec
from pytest_readonly_vm.sources.image_list import listed
from pytest_readonly_vm.sources.image_sources import ImageSources
from pytest_readonly_vm.start.ahead import TemplatesAhead
from pytest_readonly_vm.start.archive import Archives
from pytest_readonly_vm.start.maker import Hooks, Maker
from pytest_readonly_vm.start.prefetch import Prefetch
from pytest_readonly_vm.start.strategies import strategies
from pytest_readonly_vm.start.templates import Templates


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
        watch: Watch = nobody,
        stopwatch: Stopwatch | None = None,
        compare: Compare | None = None,
    ) -> None:
        """`progress` is told of long transfers, on the loop's thread; `tell` what people should know of, on any.

        `on_failure` gets each machine that was wanted and did not become ready, before it is discarded; `on_unmade`,
        for a layer, the configuration up to that. `output_guard` knows what else is not to be written over. `watch`
        sees guests boot and layers made. `stopwatch` measures who starts machines. `compare` may refuse an image.
        """
        self.output_guard = output_guard or OutputGuard()
        self.boots: list[Boot] = []
        self.layers: list[LayerMade] = []
        self._progress = progress
        self._resources = Resources(self.output_guard, tell, stopwatch or Stopwatch())
        images = ImageSources(tell, watch, self._resources.stopwatch, lambda: self._resources.loop)
        self._bases = Bases(images, compare)
        self._layouts = Layouts()
        self._firmwares = Firmwares(self._bases, self._layouts)
        hooks = Hooks(
            guest=self._handle,
            on_failure=lambda instance, error: on_failure(self._handle(instance), error),
            on_unmade=on_unmade,
            on_layer=self._record_layer,
            watch=watch,
        )
        self._maker = Maker(self._resources, hooks)
        self.networks = Networks(self._resources, lambda network: around(self._cluster_keeper, network))
        archive = Archives(tell).of
        self._templates = Templates(self._maker, archive, self._record_made)
        self.ahead = TemplatesAhead(self._templates, self._maker, self.spec)
        self._strategies = strategies(self._maker, self._templates)
        self._keeper = Keeper(self._maker, self._made_of, self._adopt, self._record)
        self._cluster_keeper = ClusterKeeper(self._maker, self.networks, self._adopt)
        self._clusters = Clusters(
            self._cluster_keeper,
            self._templates,
            spec=lambda config, name, *, is_spare=False: self.spec(checked(config), name, is_spare=is_spare),
            start=self.start,
            handle=self._handle,
            archive=archive,
            on_formed=self._record_cluster,
            on_unformed=on_unmade,
        )
        self._prefetch = Prefetch(self._start_ahead, self._discard)
        self._made: dict[str, History] = {}
        """What was made for machines to come, by their names."""
        self._usual_channels: dict[tuple[Path | ImageReference | None, Path | None], str] = {}
        self._lock = threading.Lock()
        self.machines: list[VirtualMachine] = []
        """Those that were started; of the closed ones some."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End what is still running and remove what is still there, all of it, whatever fails."""
        with Cleanup() as cleanup:
            for vm in self.machines:
                with cleanup.step(), contextlib.suppress(VmError):  # the spawner ends what did not end by itself
                    vm.close()
            # What machines are made with goes last.
            for close in (
                self.networks.close,
                self.ahead.close,
                self._prefetch.close,
                self._clusters.close,
                self._templates.close,
                self._bases.close,
                self._resources.close,
            ):
                with cleanup.step():
                    close()

    def start(
        self, config: VmConfig, *, name: str, networks: Sequence[PrivateNetwork] = (), host: str = ""
    ) -> VirtualMachine:
        """Start a machine and return it when its guest is ready. The caller closes it; `close` does so at the latest.

        :param networks: those of `networks` that it is on, where others know it as `host`.
        :raises ConfigurationError: the settings make no sense together or on this computer.
        :raises HostError: this computer lacks something.
        :raises ImageError: the base image is refused.
        :raises BaseImageChanged: it was found changed earlier in this run.
        :raises StartFailed: QEMU did not come up.
        :raises GuestDied: it ended while the guest was booting.
        :raises BootTimeout: the guest did not become ready in time.
        :raises NetworkError: it cannot be on one of the networks.
        """
        config = checked(config)
        places = take_places(networks, host or name)
        vm = None
        try:
            spec = replace(self.spec(config, name), cards=cablings(places))
            ready = self._prefetch.take(config, name, is_wanted=lambda: self._templates.has(spec))
            instance = ready if isinstance(ready, Instance) else self._strategies[config.start].start(spec)
            instance.spec = spec  # it may have been a spare one
            with self._maker.giving_up(instance):
                vm = self._adopt(instance)
                vm.settle(places, host or name)
                vm.prove_pristine()
        except BaseException:
            if vm is not None:
                vm.close()
            give_back(places)
            raise
        return vm

    def start_cluster(self, config: VmConfig, *, name: str) -> Cluster:
        """Start all machines of the cluster that ``config.cluster`` forms; raises as `start`, and as that function."""
        config = listed(config)
        ready = self._prefetch.take(config, name, is_wanted=lambda: self._clusters.has(config))
        if isinstance(ready, Thawed):
            return self._clusters.adopt(ready, name)
        return self._clusters.start(config, name=name)

    def expect(self, wanted: Sequence[tuple[VmConfig, str]]) -> None:
        """Begin to start machines, to be there when `start` asks for them; end what was expected and is not any more.

        Nothing is started where that would be no gain: if a machine is not a copy of one that has booted.
        """
        with contextlib.suppress(VmError), host_errors("nothing is started ahead"):  # which `start` does then
            known = [(listed(config), name) for config, name in wanted]
            self._prefetch.expect([(config, name) for config, name in known if self._has_template(config)])

    def _has_template(self, config: VmConfig) -> bool:
        try:
            if config.start == "cold":
                return False
            if config.cluster is not None:
                return self._clusters.has(config)
            return self._bases.has(config) and self._templates.has(self.spec(config, ""))
        except (VmError, OSError):  # which `start` will raise for who wants the machine
            return False

    @host_errors("no machine can be started")
    def spec(
        self, config: VmConfig, name: str, *, is_spare: bool = False, firmware: Firmware | None = None
    ) -> MachineSpec:
        """What is wanted, with what it takes on this computer; raises as `start`, but starts nothing.

        :param firmware: if it is another than `config` would have here."""
        qemu_img = self._resources.qemu_img(config)
        base, cdrom = self._bases.get(config, qemu_img=qemu_img)
        arch = choose_arch(
            config,
            layout=lambda: self._layouts.get(base or cdrom, qemu_img=qemu_img),
            cd=lambda: self._layouts.get(cdrom if base else None, qemu_img=qemu_img),
        )
        refuse_what_it_has_not(config, arch)
        hypervisor = self._resources.hypervisor(config, arch)
        self.output_guard.protect(config, base.chain if base else (), cdrom.chain if cdrom else ())
        disks = disk_specs(config, base, self._bases, qemu_img=qemu_img)
        for disk in disks:
            self.output_guard.protect_files(disk.chain)
        return MachineSpec(
            config=config,
            name=name,
            hypervisor=hypervisor,
            disks=disks,
            cdrom=cdrom,
            firmware=firmware or self._firmwares.get(config, hypervisor, base, cdrom),
            usual_channel=self._usual_channels.get((config.image, config.kernel)),
            is_spare=is_spare,
        )

    def adopt(self, make: Callable[[Maker], Instance]) -> VirtualMachine:
        """Keep a machine that was made in another way than `start` makes them. It ends with the lab at the latest."""
        return self._adopt(make(self._maker))

    def on_their_way(self) -> list[VirtualMachine]:
        """The machines that `start` is waiting for at this moment, on whatever thread. None of them is ready."""
        return [self._handle(instance) for instance in tuple(self._resources.running) if not instance.ready_after]

    def _start_ahead(self, config: VmConfig, name: str) -> Instance | Thawed:
        if config.cluster is not None:
            return self._clusters.thaw(config, name, is_spare=True)
        return self._made_of(self.spec(config, name, is_spare=True))

    def _discard(self, ahead: Instance | Thawed) -> None:
        if isinstance(ahead, Thawed):
            discard(self._cluster_keeper, ahead)
        else:
            self._maker.discard(ahead)

    def _handle(self, instance: Instance, *, is_ready: bool = False) -> VirtualMachine:
        return VirtualMachine(instance, self._keeper, progress=self._progress, is_ready=is_ready)

    def _adopt(self, instance: Instance) -> VirtualMachine:
        """Keep one more machine, which ends with the lab at the latest."""
        vm = self._handle(instance, is_ready=True)
        with self._lock:
            self.machines = [*(other for other in self.machines if not other.closed), vm]
        if vm.channel:
            self._usual_channels[vm.config.image, vm.config.kernel] = vm.channel
        self._record(instance)
        return vm

    def _made_of(self, spec: MachineSpec) -> Instance:
        return self._strategies[spec.config.start].start(spec)

    def _record(self, instance: Instance) -> None:
        history = instance.qmp.history
        start = history.note("start", instance.manner, seconds=instance.ready_after)
        start.time = time.time() - (time.monotonic() - instance.started)  # it may have been started ahead
        if (made := self._made.pop(instance.name, None)) is not None:
            history.follow(made)
        self._note_start(instance)

    def _record_made(self, instance: Instance) -> None:
        """A machine that has ended, to be frozen: what it took to make it is told of the machine that it was for."""
        if instance.manner == "boot":
            self._note_start(instance)
        made = self._made.setdefault(instance.name, History())
        for entry in instance.qmp.history.entries():
            if entry.kind in ("boot", "layer"):
                made.take(entry)

    def _record_layer(self, instance: Instance, layer: GuestLayer, seconds: float) -> None:
        self.layers.append(LayerMade(instance.name, str(layer), seconds))

    def _record_cluster(self, config: VmConfig, name: str, seconds: float) -> None:
        self.layers.append(LayerMade(name, str(config.cluster), seconds, is_cluster=True))

    def _note_start(self, instance: Instance) -> None:
        found = instance.channels.found
        self.boots.append(
            Boot(
                name=instance.name,
                manner=instance.manner,
                reason=instance.reason,
                seconds=instance.ready_after,
                phases=instance.boot_phases if instance.manner == "boot" else {},  # a copy has those of what was frozen
                accelerator=instance.spec.hypervisor.accelerator.name,
                channel=found.name if found else None,
            )
        )

    def check_bases(self, *, during: str) -> tuple[Where, ...]:
        """Compare every base in use with what it was when it was opened; return those that were compared.

        Costs microseconds. A base that changed is not used for further machines, nor is a frozen guest whose disk did.

        :param during: what ran meanwhile, for the message: a test's node id.
        :raises BaseImageChanged: one is not what it was.
        """
        sound = self._bases.check(during=during)
        if changed := [*self._templates.take_changed(), *self._clusters.take_changed()]:
            raise BaseImageChanged(f"{'; '.join(changed)} while {during} ran")
        return sound

    @property
    def broken_bases(self) -> dict[Where, str]:
        """What happened to each base that was found changed so far."""
        return self._bases.broken

    def identity(self, image: Path | ImageReference | None) -> dict[str, str]:
        """By what a base image can be told from another: its ``fingerprint``; with ``verify=hash`` its ``sha256``."""
        return self._bases.identity(image)

    def compare_digests(self) -> dict[Where, str]:
        """Read every base that was opened with ``verify=hash`` once more: what is to complain of each, or nothing."""
        return self._bases.compare_digests()
