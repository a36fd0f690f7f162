"""Owns the clusters of one run: which are formed, and how each is formed once: from the cache, or by its function."""

import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
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
from pytest_readonly_vm.machine.networked import cablings, take_places
from pytest_readonly_vm.machine.new_cluster import NewCluster, StartMachine
from pytest_readonly_vm.machine.private_network import PrivateNetwork
from pytest_readonly_vm.machine.vm import VirtualMachine
from pytest_readonly_vm.qemu.instance import Instance
from pytest_readonly_vm.qemu.spec import MachineSpec
from pytest_readonly_vm.start.archive import Archive
from pytest_readonly_vm.start.cluster_state import ClusterState, MachineState
from pytest_readonly_vm.start.freeze import freeze
from pytest_readonly_vm.start.key import digest, key_of, keys_of
from pytest_readonly_vm.start.migration import Unfrozen
from pytest_readonly_vm.start.template import Reads
from pytest_readonly_vm.start.templates import Templates
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
        self._digests = ContentDigests()
        self._formed: dict[str, ClusterState] = {}
        self._loaded: set[str] = set()
        self._distrusted: list[ClusterState] = []  # not closed yet, as another thread may be using one at this moment
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

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
        state = self._formed.get(self._key(config))
        return state is not None and self._are_current(config, state)

    def _key(self, config: VmConfig) -> str:
        assert config.cluster is not None
        # Where each machine has an image of its own, what that is, is looked at one by one.
        alone = replace(config, cluster=None)
        told = [code_of(getattr(alone, name)) for name in SETTINGS]
        base = keys_of(self._spec(alone, ""))[-1] if config.boots else digest(told)
        return digest("cluster", base, config.cluster.key())

    def _get(self, config: VmConfig, name: str) -> ClusterState:
        """The frozen cluster of a configuration: known, kept by an earlier run, or formed now."""
        key, stopwatch = self._key(config), self._keeper.maker.resources.stopwatch
        with self._locks[key], ExitStack() as held:
            if (known := self._formed.get(key)) is not None:
                if self._are_current(config, known):
                    return known
                self._distrusted.append(self._formed.pop(key))
            if (archive := self._archive(config)) is not None:
                with stopwatch.part(Part.OTHERS):
                    is_ours = held.enter_context(archive.lock(key, patience=config.boot_timeout * _OTHERS))
                archive = archive if is_ours else None
            if archive is not None and (kept := self._kept(archive, key, config)) is not None:
                self._formed[key] = kept
                self._loaded.add(key)
                return kept
            with stopwatch.part(Part.LAYERS):
                formed = self._formed[key] = self._form(config, name)
            if archive is not None:
                specs = [self._spec(with_settings_of(config, machine), machine.name) for machine in formed.machines]
                archive.save_cluster(key, formed, specs, name=str(config.cluster))
            return formed

    def _kept(self, archive: Archive, key: str, config: VmConfig) -> ClusterState | None:
        """What an earlier run has formed, unless something of it is another by now."""
        resources = self._keeper.maker.resources
        with resources.stopwatch.part(Part.KEPT):
            state = archive.load_cluster(
                key, is_current=self._have_digests, new_folder=partial(resources.new_folder, config)
            )
        if state is not None and not self._are_current(config, state):
            state.close()
            return None
        return state

    def _are_current(self, config: VmConfig, state: ClusterState) -> bool:
        """Whether what each machine was made of, and what was pushed into it, is what it was."""
        keys = [key_of(self._spec(with_settings_of(config, machine), machine.name)) for machine in state.machines]
        return keys == [machine.key for machine in state.machines] and self._have_digests(state.reads)

    def _have_digests(self, reads: Reads) -> bool:
        return all(self._digests.digest_or_reason(path) == known for path, known in reads.items())

    # The forming.

    def _form(self, config: VmConfig, name: str) -> ClusterState:
        """Run the function, and freeze what it has made.

        :raises ConfigurationError: it makes no machine, or one that cannot be frozen.
        """
        assert config.cluster is not None
        maker, began, reads = self._keeper.maker, time.monotonic(), _read(config, self._digests)
        rams: list[int | None] = []
        new = NewCluster(config, name, self._keeper.networks, lambda *args, **named: start(*args, **named))
        with ExitStack() as undo, ExitStack() as giving_up:
            undo.callback(self._end, new)

            def start(config: VmConfig, *, name: str, networks: Sequence[PrivateNetwork], host: str) -> VirtualMachine:
                places = take_places(networks, host)
                spec = replace(self._spec(config, name), cards=cablings(places))
                instance, ram = self._templates.freezable(spec)
                if ram is not None:
                    undo.callback(os.close, ram)
                rams.append(ram)
                giving_up.enter_context(maker.giving_up(instance))
                vm = self._handle(instance)
                vm.on_push = lambda path: reads.setdefault(path, self._digests.digest_or_reason(path))
                vm.settle(places, host)
                return vm

            try:
                with watched_layer(maker.watch, str(config.cluster), maker.resources.loop):
                    config.cluster.form(new)
                machines = list(new.machines.values())
                if not machines:
                    raise ConfigurationError(f"{config.origin('cluster')}: cluster {config.cluster} makes no machine")
                states = [network.state(machines) for network in new.networks.values()]
                moment = maker.resources.loop.run(
                    freeze([vm.instance for vm in machines], rams, list(new.networks.values()))
                )
            except Unfrozen as unfrozen:
                raise ConfigurationError(
                    f"{config.origin('cluster')}: cluster {config.cluster} cannot be frozen: {unfrozen}; use "
                    "start=cold, by which it is formed for each test"
                ) from None
            except BaseException as error:
                self._on_unformed(config, error)
                raise
            giving_up.pop_all()
            undo.pop_all()
        self._end(new)
        self._on_formed(config, name, time.monotonic() - began)
        kept = [MachineState(name=one, settings=new.settings[one], key="") for one in new.machines]
        keyed = [
            replace(machine, key=key_of(self._spec(with_settings_of(config, machine), machine.name)))
            for machine in kept
        ]
        return ClusterState(tuple(keyed), tuple(states), reads, moment)

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
        except BaseException as error:
            self._on_unformed(config, error)
            Cluster(name, tuple(new.machines.values()), tuple(new.networks.values()), self._keeper).close()
            raise
        self._on_formed(config, name, time.monotonic() - began)
        machines, networks = tuple(new.machines.values()), tuple(new.networks.values())
        return Cluster(name, machines, networks, self._keeper, names=tuple(new.machines))

    # Doubts.

    def _distrust(self, config: VmConfig) -> bool:
        """Forget a cluster of an earlier run, here and there, and say whether it was one."""
        key = self._key(config)
        with self._locks[key]:
            if key not in self._loaded:
                return False
            self._loaded.discard(key)
            if (archive := self._archive(config)) is not None:
                archive.remove(key)
            if (state := self._formed.pop(key, None)) is not None:
                self._distrusted.append(state)
        return True

    def take_changed(self) -> list[str]:
        """What happened to files of frozen clusters; such a one is not used any more."""
        changed = {key: found for key, state in list(self._formed.items()) if (found := state.moment.difference())}
        for key in changed:
            self._distrusted.append(self._formed.pop(key))
        return list(changed.values())

    def close(self) -> None:
        for state in (*self._formed.values(), *self._distrusted):
            state.close()
        self._formed.clear()
        self._distrusted.clear()


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
