"""Owns how a machine is made: it boots, or goes on from where a template's guest was frozen, and gets its layers."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from pytest_readonly_vm.config.layer import GuestLayer
from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.errors import ConfigurationError, GuestDied, StartFailed, VmError
from pytest_readonly_vm.guest.boot import boot
from pytest_readonly_vm.guest.guest import Guest
from pytest_readonly_vm.host.cleanup import Cleanup
from pytest_readonly_vm.host.stopwatch import Part
from pytest_readonly_vm.host.watch import Watch, nobody
from pytest_readonly_vm.image.contents import ContentDigests
from pytest_readonly_vm.qemu.card import set_carrier
from pytest_readonly_vm.qemu.command_line import RamWire
from pytest_readonly_vm.qemu.disk_spec import copies
from pytest_readonly_vm.qemu.instance import Instance
from pytest_readonly_vm.qemu.launch import InitialState, greet, launch
from pytest_readonly_vm.qemu.resources import Resources
from pytest_readonly_vm.qemu.spec import MachineSpec
from pytest_readonly_vm.start.freeze import Moment, Wire, freeze_running
from pytest_readonly_vm.start.migration import Unfrozen, load_state
from pytest_readonly_vm.start.repair import align_clocks, resume
from pytest_readonly_vm.start.riscv_timers import rearm_timers
from pytest_readonly_vm.start.template import Reads, Template
from pytest_readonly_vm.start.watched import watched_boot, watched_layer


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """What whoever wants machines has to say, and hears, before they are made."""

    guest: Callable[[Instance], Guest]
    """Makes of an instance what a user's function of readiness or of a layer gets."""
    on_failure: Callable[[Instance, BaseException], object]
    """Called with a machine that did not become what was wanted, before it is discarded."""
    on_unmade: Callable[[VmConfig, BaseException], object]
    """Called when a layer could not be made, or not be frozen, with the configuration up to that one."""
    on_layer: Callable[[Instance, GuestLayer, float], object]
    """Called when a layer has been made in a machine, with how many seconds that took."""
    watch: Watch
    """Looks on while a guest boots, or a layer is made, that somebody waits for."""


class Maker:
    """Makes machines, for one run. Any thread may call. What was begun is undone when anything fails."""

    def __init__(self, resources: Resources, hooks: Hooks) -> None:
        self.resources = resources
        self._hooks = hooks

    @property
    def watch(self) -> Watch:
        """Looks on while what somebody waits for is made."""
        return self._hooks.watch

    def cold(self, spec: MachineSpec) -> Instance:
        """A machine that has booted by itself, without its layers; raises as `booted`."""
        with self.resources.stopwatch.part(Part.BOOTING):
            return self.booted(spec, InitialState(named_overlay=spec.config.snapshot == "overlay"))

    def booted(self, spec: MachineSpec, initial: InitialState) -> Instance:
        """A machine whose guest is ready.

        :raises ConfigurationError: the way of provisioning does not fit the machine.
        :raises StartFailed: QEMU did not come up.
        :raises GuestDied: it ended while the guest was booting.
        :raises BootTimeout: the guest did not become ready within ``config.boot_timeout``.
        """
        instance = launch(spec, self.resources, initial)
        with self.giving_up(instance), watched_boot(self._watch(instance), instance, self.resources.loop):
            boot(instance, loop=self.resources.loop, guest=lambda: self._hooks.guest(instance))
        return instance

    def clone(
        self, spec: MachineSpec, template: Template, *, ram: int | None = None, freezable: bool = False
    ) -> Instance:
        """A machine that goes on from a template, once its guest runs and is repaired.

        :param freezable: whether it is to be frozen in its turn: the guest writes to `ram`, memory with the content of
            the template's, and to a named file on its disk. Otherwise what it writes to is private to its QEMU.
        :raises StartFailed: QEMU did not come up or did not accept the template.
        """
        instance = self._thawed(spec, template, ram=ram, freezable=freezable)
        with self.giving_up(instance), _refusing(instance, "the template"):
            self.resources.loop.run(_go_on(instance))
            self._wake(instance, template)
        instance.origin = template
        return instance

    def clones(self, specs: Sequence[MachineSpec], moment: Moment, wires: Sequence[Wire] = ()) -> list[Instance]:
        """Machines that go on together from one moment, once their guests run and are repaired.

        :param wires: the networks between them, which go on with what was on its way then.
        :raises StartFailed: a QEMU did not come up or did not accept its template. None is left.
        """
        with (
            ExitStack() as giving_up,
            ThreadPoolExecutor(len(specs), thread_name_prefix="readonly-vm clones") as threads,
        ):

            def begin(spec: MachineSpec, template: Template) -> Future[Instance]:
                load = threads.submit(self._thawed, spec, template)

                def end(_: object, error: BaseException | None, __: object) -> None:
                    if error is not None and load.exception() is None:
                        self.give_up(load.result(), error)

                giving_up.push(end)
                return load

            loads = [begin(spec, one) for spec, one in zip(specs, moment.templates, strict=True)]
            instances = [load.result() for load in loads]

            async def go_on() -> None:
                for wire, under_way in zip(wires, moment.under_way, strict=True):
                    await wire.go_on(under_way)
                await asyncio.gather(*map(_go_on, instances))

            self.resources.loop.run(go_on())
            for _ in threads.map(self._wake, instances, moment.templates):
                pass
            self.resources.loop.run(align_clocks(instances))
        return instances

    def _thawed(
        self, spec: MachineSpec, template: Template, *, ram: int | None = None, freezable: bool = False
    ) -> Instance:
        wire = None
        if template.has_named_ram:
            private = ram is None and template.ram is not None
            wire = RamWire(template.ram if private else ram, writable=not private)
        named_overlay = freezable or spec.config.snapshot == "overlay"
        return self.loaded(spec, template, ram=wire, named_overlay=named_overlay, what="the template")

    def _wake(self, instance: Instance, template: Template) -> None:
        """Have a guest that goes on from a template be one that a test may get."""
        resume(instance, template.conversation, loop=self.resources.loop)
        instance.manner = "clone"
        instance.boot_phases = template.boot_phases
        instance.ready_after = time.monotonic() - instance.started

    def loaded(
        self,
        spec: MachineSpec,
        template: Template,
        *,
        ram: RamWire | None,
        named_overlay: bool,
        what: str,
        look: Callable[[Instance], Awaitable[None]] | None = None,
    ) -> Instance:
        """A machine that stands still and has a template's state.

        :param what: what that is, for messages.
        :param look: what is done before QEMU reads it, on the loop.
        :raises StartFailed: QEMU did not come up or did not accept it.
        """
        state = template.open_state()
        try:
            initial = InitialState(
                overlays=copies(template.overlays),
                cards=template.cards,
                named_overlay=named_overlay,
                ram=ram,
                state=state,
                transcript=template.transcript,
                ssh_key=template.ssh_key,
            )
            instance = launch(spec, self.resources, initial)
        finally:
            os.close(state)

        async def load() -> None:
            await greet(instance)
            if look is not None:
                await look(instance)
            await load_state(instance, state, without_shared_ram=template.ram is not None, what=what)
            await rearm_timers(instance)
            for card in instance.cards:  # a cable that was out then is in a state as well; see `Link`
                await set_carrier(instance.qmp, card, up=True)

        with self.giving_up(instance), _refusing(instance, what):
            self.resources.loop.run(load())
        return instance

    def freeze_running(self, instances: Sequence[Instance], wires: Sequence[Wire] = ()) -> Moment:
        """The present state of machines, all at one moment; they run on.

        :raises VmError: something of a machine does not allow that.
        """
        try:
            return self.resources.loop.run(freeze_running(instances, wires))
        except Unfrozen as unfrozen:
            names = ", ".join(instance.name for instance in instances)
            raise VmError(f"{names}: the machine's state cannot be saved: {unfrozen}") from None

    def with_layers(self, instance: Instance, *, made: int = 0) -> Instance:
        """A machine that has booted, once its layers have been made in it, but for those that are there already."""
        for number in range(made, len(instance.config.layers)):
            with (
                self.resources.stopwatch.part(Part.LAYERS),
                self.giving_up(instance),
                self.making_layer(instance, number),
            ):
                self.make_layer(instance, number, ContentDigests())
        return instance

    def make_layer(self, instance: Instance, number: int, digests: ContentDigests) -> Reads:
        """Bring a machine into the state of one of its layers; what of the host's files that has read.

        :raises ConfigurationError: something is not there that the layer says it depends on.
        """
        layer = instance.config.layers[number]
        reads: dict[str, str] = {}
        try:
            for path in layer.files:
                reads[path] = digests.digest(path)
        except OSError as error:
            where = f"{instance.config.origin('layers')}: layers: {layer}: files: {error.filename}"
            raise ConfigurationError(f"{where}: {error.strerror}") from None
        guest = self._hooks.guest(instance)
        # Before it is read: if it changes meanwhile, what is kept is of another content than the guest has, or of its.
        guest.on_push = lambda path: reads.setdefault(path, digests.digest_or_reason(path))
        watched = watched_layer(self._watch(instance), str(layer), self.resources.loop)
        with instance.qmp.history.noting("layer", str(layer)) as entry, watched:
            layer.apply(guest)
        self._hooks.on_layer(instance, layer, entry.seconds)
        return reads

    def _watch(self, instance: Instance) -> Watch:
        return nobody if instance.spec.is_spare else self._hooks.watch

    @contextmanager
    def making_layer(self, instance: Instance, number: int) -> Iterator[None]:
        """Tell whoever wants the machine, if something fails, that it is this layer which could not be had."""
        try:
            yield
        except Unfrozen:
            raise
        except BaseException as error:
            if not instance.spec.is_spare:
                config = instance.config
                self._hooks.on_unmade(replace(config, layers=config.layers[: number + 1]), error)
            raise

    @contextmanager
    def giving_up(self, instance: Instance) -> Iterator[None]:
        """If something fails, end a machine that has not become what was wanted, once whoever wants it has seen it."""
        try:
            yield
        except Unfrozen:  # it runs on, and will be used
            raise
        except BaseException as error:
            self.give_up(instance, error)
            raise

    def give_up(self, instance: Instance, error: BaseException) -> None:
        """End a machine that has not become what was wanted, once whoever wants it has seen it."""
        try:
            if not instance.spec.is_spare:
                self._hooks.on_failure(instance, error)
        finally:
            self.discard(instance)

    def discard(self, instance: Instance) -> None:
        """End a machine that nobody will use, at once."""
        with Cleanup() as cleanup:
            for step in (
                instance.process.kill,
                lambda: self.resources.loop.run(instance.end()),
                instance.remove_folder,
            ):
                with cleanup.step():
                    step()


async def _go_on(instance: Instance) -> None:
    await instance.qmp.command("cont")
    instance.qmp.forget_events()


@contextmanager
def _refusing(instance: Instance, what: str) -> Iterator[None]:
    """Turn the end of a QEMU that is given a state into the refusal that it is."""
    try:
        yield
    except GuestDied:
        failure = StartFailed(f"{instance.name}: QEMU did not accept {what}: {instance.process.verdict()}")
        raise instance.process.with_evidence(failure) from None
