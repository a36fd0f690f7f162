"""Owns the clusters of one run: which are formed, and how each is formed once: from the cache, or by its function."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Protocol

from pytest_readonly_vm.config.prepared import code_of
from pytest_readonly_vm.config.setting import Given
from pytest_readonly_vm.config.settings import SETTINGS, VmConfig
from pytest_readonly_vm.errors import ConfigurationError, StartFailed
from pytest_readonly_vm.host.cleanup import Cleanup
from pytest_readonly_vm.host.stopwatch import Part
from pytest_readonly_vm.image.contents import ContentDigests
from pytest_readonly_vm.machine.cluster import Cluster, ClusterKeeper, Thawed, adopt, thaw
from pytest_readonly_vm.machine.new_cluster import NewCluster, StartMachine
from pytest_readonly_vm.machine.places import cablings, give_back, take_places
from pytest_readonly_vm.machine.private_network import PrivateNetwork
from pytest_readonly_vm.machine.vm import VirtualMachine
from pytest_readonly_vm.qemu.instance import Instance
from pytest_readonly_vm.qemu.spec import MachineSpec
from pytest_readonly_vm.start.archive import Archive
from pytest_readonly_vm.start.cluster_state import ClusterState, MachineState, NetworkState
from pytest_readonly_vm.start.freeze import Moment, freeze
from pytest_readonly_vm.start.frozen import FrozenOnes
from pytest_readonly_vm.start.key import digest, key_of, keys_of
from pytest_readonly_vm.start.migration import Unfrozen
from pytest_readonly_vm.start.recipe import Recipe, Untravelled
from pytest_readonly_vm.start.templates import Templates
from pytest_readonly_vm.start.travel import Origin
from pytest_readonly_vm.start.watched import watched_layer

_OTHERS = 60
"""Times that a boot may take: for so long another process that forms the same is waited for."""


class MakeSpec(Protocol):
    """Says what a machine takes on this computer."""

    def __call__(self, config: VmConfig, name: str, *, is_spare: bool = False) -> MachineSpec: ...


class Clusters:
    """Forms clusters when they are first asked for. Several threads may ask at once."""

    def __init__(
        self,
        keeper: ClusterKeeper,
        templates: Templates,
        *,
        spec: MakeSpec,
        start: StartMachine,
        handle: Callable[[Instance], VirtualMachine],
        archive: Callable[[VmConfig], Archive | None],
        on_formed: Callable[[VmConfig, str, float], object],
        on_unformed: Callable[[VmConfig, BaseException], object],
    ) -> None:
        """`start` starts a machine that lives on, `handle` is what a function gets of one that will be frozen.

        `on_formed` hears of each cluster that was formed, whose, and how many seconds that took; `on_unformed` of what
        could not be.
        """
        self._keeper = keeper
        self._templates = templates
        self._spec = spec
        self._start = start
        self._handle = handle
        self._archive = archive
        self._on_formed = on_formed
        self._on_unformed = on_unformed
        self._formed = FrozenOnes[ClusterState](keeper.maker.resources.stopwatch)

    def start(self, config: VmConfig, *, name: str) -> Cluster:
        """The cluster of a configuration, all of its machines ready; raises as machines do, and as its function."""
        if config.start == "cold":
            return self._form_for_one(config, name)
        for is_last in (False, True):
            state = self._get(config, name)
            try:
                return self.adopt(self.thaw(config, name, state=state), name)
            except StartFailed:
                if is_last or not self._distrust(config):
                    raise
        raise AssertionError("unreachable")

    def thaw(self, config: VmConfig, name: str, *, state: ClusterState | None = None, is_spare: bool = False) -> Thawed:
        """Its machines before anybody has them."""
        state = state or self._get(config, name)
        specs = [
            self._spec(with_settings_of(config, machine), f"{name} ({machine.name})", is_spare=is_spare)
            for machine in state.machines
        ]
        return thaw(self._keeper, name, specs, state.networks, state.moment)

    def adopt(self, thawed: Thawed, name: str) -> Cluster:
        """The cluster that these are, for whoever it is for."""
        names = [instance.name.removeprefix(f"{name} (").removesuffix(")") for instance in thawed.instances]
        for instance in thawed.instances:
            instance.spec = replace(instance.spec, is_spare=False)
        return adopt(self._keeper, name, thawed, names, thawed.moment)

    def has(self, config: VmConfig) -> bool:
        """Whether it is formed by now, and is what would be formed now."""
        state = self._formed.known(self._key(config))
        return state is not None and self._is_current(config, state)

    def _key(self, config: VmConfig) -> str:
        assert config.cluster is not None
        # Where each machine has an image of its own, what that is, is looked at one by one.
        alone = replace(config, cluster=None)
        told = [code_of(getattr(alone, name)) for name in SETTINGS]
        base = keys_of(self._spec(alone, ""))[-1] if config.boots else digest(told)
        return digest("cluster", base, config.cluster.key())

    def _get(self, config: VmConfig, name: str) -> ClusterState:
        """The frozen cluster of a configuration: known, kept by an earlier run, or formed now."""
        key = self._key(config)

        def save(archive: Archive, state: ClusterState) -> None:
            specs = self._specs(config, state.machines)
            if all(spec.is_lasting for spec in specs):
                archive.save_cluster(key, state, specs, self._origin(config), name=str(config.cluster))

        return self._formed.get(
            key,
            lambda: self._archive(config),
            patience=config.boot_timeout * _OTHERS,
            is_current=partial(self._is_current, config),
            load=lambda archive: self._kept(archive, key, config),
            make=lambda: self._form(config, name),
            save=save,
            part=Part.LAYERS,
        )

    def _kept(self, archive: Archive, key: str, config: VmConfig) -> ClusterState | None:
        """What an earlier run has formed, unless something of it is another by now."""
        resources = self._keeper.maker.resources
        with resources.stopwatch.part(Part.KEPT):
            state = archive.load_cluster(
                key,
                self._origin(config),
                specs=partial(self._specs, config),
                digests=self._formed.digests,
                new_folder=partial(resources.new_folder, config),
            )
        if state is not None and not self._is_current(config, state):
            state.close()
            return None
        return state

    def _origin(self, config: VmConfig) -> Origin:
        """By what it comes to be, for whoever has it from another computer."""
        assert config.cluster is not None
        formed_by, layers = config.cluster, config.layers

        def recipe() -> Recipe:
            if config.boots is None:
                raise Untravelled("each of its machines has an image of its own, which may be anywhere elsewhere")
            alone = self._spec(replace(config, cluster=None), "")
            return Recipe.of(alone, layers=len(layers)).of_cluster(formed_by.portable_key())

        return Origin(recipe, (*layers, formed_by))

    def _is_current(self, config: VmConfig, state: ClusterState) -> bool:
        """Whether what each machine was made of, and what was pushed into it, is what it was."""
        keys = [key_of(spec) for spec in self._specs(config, state.machines)]
        return keys == [machine.key for machine in state.machines] and self._formed.digests.has_read(state.reads)

    def _specs(self, config: VmConfig, machines: Iterable[MachineState]) -> list[MachineSpec]:
        """What the machines of a cluster take, by their own names."""
        return [self._spec(with_settings_of(config, machine), machine.name) for machine in machines]

    # The forming.

    def _form(self, config: VmConfig, name: str) -> ClusterState:
        """Run the function, and freeze what it has made.

        :raises ConfigurationError: it makes no machine, or one that cannot be frozen.
        """
        assert config.cluster is not None
        maker, began, reads = self._keeper.maker, time.monotonic(), _read(config, self._formed.digests)
        rams: dict[Instance, int | None] = {}

        def start(config: VmConfig, *, name: str, networks: Sequence[PrivateNetwork], host: str) -> VirtualMachine:
            places = take_places(networks, host)
            with ExitStack() as undo:
                undo.callback(give_back, places)
                spec = replace(self._spec(config, name), cards=cablings(places))
                instance, ram, read = self._templates.freezable(spec)
                if ram is not None:
                    undo.callback(os.close, ram)
                with maker.giving_up(instance):
                    vm = self._handle(instance)
                    vm.on_push = lambda path: reads.setdefault(path, self._formed.digests.digest_or_reason(path))
                    vm.settle(places, host)
                undo.pop_all()
            reads.update(read)
            rams[instance] = ram
            return vm

        new = NewCluster(config, name, self._keeper.networks, start)
        try:
            with _refusing_what_cannot_be_frozen(config):
                with watched_layer(maker.watch, str(config.cluster), maker.resources.loop):
                    config.cluster.form(new)
                states, moment = self._frozen(config, new, rams)
        except BaseException as error:
            self._on_unformed(config, error)
            with Cleanup() as cleanup:
                for instance, ram in reversed(rams.items()):
                    with cleanup.step():
                        maker.give_up(instance, error)
                    if ram is not None:
                        os.close(ram)
                with cleanup.step():
                    self._end(new)
            raise
        self._end(new)
        self._on_formed(config, name, time.monotonic() - began)
        kept = [MachineState(name=one, settings=new.settings(one), key="") for one in new.machines]
        keyed = [
            replace(machine, key=key_of(spec)) for machine, spec in zip(kept, self._specs(config, kept), strict=True)
        ]
        return ClusterState(tuple(keyed), states, reads, moment)

    def _frozen(
        self, config: VmConfig, new: NewCluster, rams: Mapping[Instance, int | None]
    ) -> tuple[tuple[NetworkState, ...], Moment]:
        """The machines of a cluster at one moment, which ends them, and where each was."""
        _check_there_is_one(config, new)
        machines, networks = list(new.machines.values()), list(new.networks.values())
        states = tuple(network.state(machines) for network in networks)
        instances = [vm.instance for vm in machines]
        work = freeze(instances, [rams[instance] for instance in instances], networks)
        return states, self._keeper.maker.resources.loop.run(work)

    def _end(self, new: NewCluster) -> None:
        """End the networks between machines that have ended."""
        with Cleanup() as cleanup:
            for network in new.networks.values():
                with cleanup.step():
                    self._keeper.networks.end(network)

    def _form_for_one(self, config: VmConfig, name: str) -> Cluster:
        """A cluster that nobody else will have, of machines that live on."""
        assert config.cluster is not None
        new = NewCluster(config, name, self._keeper.networks, self._start)
        began = time.monotonic()
        try:
            config.cluster.form(new)
            _check_there_is_one(config, new)
        except BaseException as error:
            self._on_unformed(config, error)
            Cluster(name, tuple(new.machines.values()), tuple(new.networks.values()), self._keeper).close()
            raise
        self._on_formed(config, name, time.monotonic() - began)
        machines, networks = tuple(new.machines.values()), tuple(new.networks.values())
        for vm in machines:
            vm.was_formed_with(name)
        return Cluster(name, machines, networks, self._keeper, names=tuple(new.machines))

    def _distrust(self, config: VmConfig) -> bool:
        """Forget a cluster of an earlier run, here and there, and say whether it was one."""
        return self._formed.distrust(self._key(config), self._archive(config))

    def take_changed(self) -> list[str]:
        """What happened to files of frozen clusters; such a one is not used any more."""
        return self._formed.take_changed()

    def close(self) -> None:
        self._formed.close()


@contextmanager
def _refusing_what_cannot_be_frozen(config: VmConfig) -> Iterator[None]:
    """:raises ConfigurationError: a machine of the cluster cannot be."""
    try:
        yield
    except Unfrozen as unfrozen:
        raise ConfigurationError(
            f"{config.origin('cluster')}: cluster {config.cluster} cannot be frozen: {unfrozen}; use start=cold, by "
            "which it is formed for each test"
        ) from None


def _check_there_is_one(config: VmConfig, new: NewCluster) -> None:
    """:raises ConfigurationError: the function has made no machine."""
    if not new.machines:
        raise ConfigurationError(f"{config.origin('cluster')}: cluster {config.cluster} makes no machine")


def with_settings_of(config: VmConfig, machine: MachineState) -> VmConfig:
    """What a machine of a cluster has, of what that was asked for with."""
    origin = f"cluster {config.cluster}: machine {machine.name!r}"
    given = {name: Given(value, origin) for name, value in machine.settings.items()}
    return replace(config, cluster=None, layers=(), networks=()).with_settings(given)


def _read(config: VmConfig, digests: ContentDigests) -> dict[str, str]:
    """The files that a cluster's function says it depends on.

    :raises ConfigurationError: one is not there.
    """
    assert config.cluster is not None
    try:
        return {path: digests.digest(path) for path in config.cluster.files}
    except OSError as error:
        where = f"{config.origin('cluster')}: cluster: {config.cluster}: files: {error.filename}"
        raise ConfigurationError(f"{where}: {error.strerror}") from None
