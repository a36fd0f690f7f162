"""Owns several machines as one: what a test holds of a cluster, and its ways through time, all at one moment."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import overload

from pytest_readonly_vm.errors import NetworkError, SwitchDied, VmError
from pytest_readonly_vm.host.cleanup import Cleanup
from pytest_readonly_vm.machine.member import Member
from pytest_readonly_vm.machine.moments import Forks, OpenCheckpoints, Returning
from pytest_readonly_vm.machine.networks import Networks
from pytest_readonly_vm.machine.places import Places, Told, cablings, exchanging
from pytest_readonly_vm.machine.private_network import PrivateNetwork
from pytest_readonly_vm.machine.vm import VirtualMachine
from pytest_readonly_vm.qemu.instance import Instance
from pytest_readonly_vm.qemu.spec import MachineSpec
from pytest_readonly_vm.start.cluster_state import NetworkState
from pytest_readonly_vm.start.freeze import Moment
from pytest_readonly_vm.start.maker import Maker


@dataclass(frozen=True, slots=True)
class ClusterKeeper:
    """Who keeps the machines and networks of clusters, and makes more of them."""

    maker: Maker
    networks: Networks
    adopt: Callable[[Instance], VirtualMachine]


@dataclass(frozen=True, slots=True, eq=False)
class ClusterCheckpoint(Returning):
    """A state of all machines of a cluster, to which it goes back. A context that does so when it is left."""

    cluster: "Cluster"
    moment: Moment
    places: tuple[Places, ...]
    """Those of each machine on the networks."""
    told: tuple[Told, ...]
    """The names that each knew there."""
    taken: float = field(default_factory=time.time)
    """On the host's clock, since the epoch."""

    @property
    def of(self) -> "Cluster":
        return self.cluster

    def release(self) -> None:
        self.moment.close()


class Cluster(Sequence[VirtualMachine]):
    """Machines, in the order in which they were made, and the networks between them.

    Each is a `VirtualMachine` as any other; what one of them does by itself, `reset` and `restore` among it, leaves the
    others as they are.

    Attributes: `name`; `names`, those of the machines; `networks`; `closed`, whether `close` was called.
    """

    def __init__(
        self,
        name: str,
        machines: Sequence[VirtualMachine],
        networks: Sequence[PrivateNetwork],
        keeper: ClusterKeeper,
        *,
        names: Sequence[str] = (),
        moment: Moment | None = None,
    ) -> None:
        """`names` are those of the machines, where they are others than in messages.

        `moment` is the one from which they have gone on, as long as it is kept.
        """
        self.name = name
        self.networks = tuple(networks)
        self.closed = False
        self._machines = tuple(machines)
        self.names = tuple(names) or tuple(vm.name for vm in machines)
        self._keeper = keeper
        self.checkpoints = OpenCheckpoints[ClusterCheckpoint]()
        self._forked = 0
        self._first = self._at(moment) if moment is not None else None

    def __repr__(self) -> str:
        return f"<Cluster {self.name} of {', '.join(self.names)}>"

    def __len__(self) -> int:
        return len(self._machines)

    def __iter__(self) -> Iterator[VirtualMachine]:
        return iter(self._machines)

    @overload
    def __getitem__(self, key: int | str) -> VirtualMachine: ...
    @overload
    def __getitem__(self, key: slice) -> tuple[VirtualMachine, ...]: ...
    def __getitem__(self, key: int | str | slice) -> VirtualMachine | tuple[VirtualMachine, ...]:
        """A machine by its number, from 0 on, or by its name; several by a slice.

        :raises IndexError: there are not so many.
        :raises VmError: none has that name.
        """
        if not isinstance(key, str):
            return self._machines[key]
        if key not in self.names:
            raise VmError(f"{self.name}: it has no machine {key!r}; its machines are {', '.join(self.names)}")
        return self._machines[self.names.index(key)]

    def network(self, name: str | None = None) -> PrivateNetwork:
        """A network of its own by its name, which need not be said if there is but one.

        :raises NetworkError: there is no such network.
        """
        found = [network for network in self.networks if name is None or network.name == name]
        if len(found) != 1:
            names = ", ".join(network.name for network in self.networks) or "none"
            raise NetworkError(f"{self.name}: no network is meant by {name!r}: its networks are {names}")
        return found[0]

    # Moments.

    def checkpoint(self) -> ClusterCheckpoint:
        """Remember all machines as they are at this moment, and what is on its way between them; they run on.

        As a context, go back at its end. It takes memory on the host as large as what the guests have in use, until it
        or the cluster is closed. What faults are on is no part of it.

        :raises VmError: something of a machine cannot be saved: some devices, such as nvme, block it.
        """
        self._check_is_whole()
        moment = self._keeper.maker.freeze_running([vm.instance for vm in self], self.networks)
        for vm in self:
            vm.history.note("state", f"checkpoint of {self.name}")
        return self.checkpoints.add(self._at(moment))

    def _at(self, moment: Moment) -> ClusterCheckpoint:
        return ClusterCheckpoint(self, moment, tuple(vm.places for vm in self), tuple(vm.told for vm in self))

    def reset(self) -> None:
        """Be as a test gets the cluster: all machines, at the moment at which it was formed. Checkpoints stay.

        :raises VmError: it was formed for this test alone, or is a fork, so that there is no such moment.
        """
        if self._first is None:
            raise VmError(f"{self.name}: the moment at which it was formed is not kept; use a checkpoint")
        self._go_back("reset", self._first)
        for vm in self:
            vm.was_reset()

    def restore(self, checkpoint: ClusterCheckpoint | None = None) -> None:
        """Go back to a checkpoint, the latest by default, as often as wanted. Connections between machines live on.

        :raises VmError: there is none, or it is closed, or another cluster's.
        """
        self._go_back("restore", self.checkpoints.meant(checkpoint, of=self.name))

    def _check_is_whole(self) -> None:
        if closed := ", ".join(name for name, vm in zip(self.names, self, strict=True) if vm.closed):
            raise VmError(f"{self.name}: it has one moment as long as all of its machines are there; closed: {closed}")

    def _go_back(self, how: str, checkpoint: ClusterCheckpoint) -> None:
        self._check_is_whole()
        loop, both = self._keeper.maker.resources.loop, list(zip(self, checkpoint.places, strict=True))
        specs = [replace(vm.instance.spec, cards=cablings(places)) for vm, places in both]
        with exchanging((vm.places, places) for vm, places in both):
            try:
                loop.run(_held(self.networks))  # what the machines say until they end is not said to those that come
                instances = self._keeper.maker.clones(specs, checkpoint.moment, self.networks)
            except BaseException:
                for network in self.networks:
                    with suppress(SwitchDied):
                        loop.run(network.go_on())
                raise
        for vm, instance, places, told in zip(self, instances, checkpoint.places, checkpoint.told, strict=True):
            vm.follow(instance, how, to=checkpoint.taken, places=places, told=told)

    def fork(self, count: int = 1) -> "Forks[Cluster]":
        """Clusters that go on from this one's present state, each on networks of its own; it runs on.

        They end with the test, or with ``with cluster.fork(2) as (a, b):``, or when each is closed.

        :raises VmError: as `checkpoint`.
        """
        self._check_is_whole()
        machines = list(self)
        moment = self._keeper.maker.freeze_running([vm.instance for vm in machines], self.networks)
        states = [network.state(machines) for network in self.networks]
        forks: list[Cluster] = []
        try:
            for number in range(1, count + 1):
                suffix = f"(fork {self._forked + number})"
                specs = [replace(vm.instance.spec, name=f"{vm.name} {suffix}", cards=()) for vm in machines]
                name = f"{self.name} {suffix}"
                forks.append(adopt(self._keeper, name, thaw(self._keeper, name, specs, states, moment), self.names))
        except BaseException:
            Forks(forks).close()
            raise
        finally:
            moment.close()
        self._forked += count
        return Forks(forks)

    def close(self) -> None:
        """End its machines and networks; a second call does nothing."""
        if self.closed:
            return
        self.closed = True
        self.checkpoints.forget_all()
        with Cleanup() as cleanup:
            for vm in self:
                with cleanup.step():
                    vm.close()
            for network in self.networks:
                with cleanup.step():
                    self._keeper.networks.end(network)


@dataclass(frozen=True, slots=True, eq=False)
class Thawed:
    """Machines that go on together from a moment, and their networks, before anybody has them."""

    instances: tuple[Instance, ...]
    networks: tuple[PrivateNetwork, ...]
    places: tuple[Places, ...]
    """Of each machine."""
    moment: Moment

    @property
    def is_alive(self) -> bool:
        """Whether none of their QEMUs has ended."""
        return all(instance.is_alive for instance in self.instances)


def thaw(
    keeper: ClusterKeeper,
    owner: str,
    specs: Sequence[MachineSpec],
    states: Sequence[NetworkState],
    moment: Moment,
) -> Thawed:
    """Have machines go on from a moment, on new networks.

    :param owner: whose the networks are, for messages.
    :raises StartFailed: they do not. Nothing is left.
    """
    resources, spare = keeper.maker.resources, any(spec.is_spare for spec in specs)
    slots = resources.slots([spec.config for spec in specs], owner, spare=spare)
    networks: list[PrivateNetwork] = []
    try:
        places: list[dict[PrivateNetwork, Member]] = [{} for _ in specs]
        for state in states:
            network, members = keeper.networks.again(state, owner=owner)
            networks.append(network)
            for number, member in members.items():
                places[number][network] = member
        resources.loop.run(_held(networks))
        wanted = [
            replace(spec, slot=slot, cards=cablings(its)) for spec, slot, its in zip(specs, slots, places, strict=True)
        ]
        instances = keeper.maker.clones(wanted, moment, networks)
    except BaseException:
        for slot in slots:
            slot.release()
        for network in networks:
            keeper.networks.end(network)
        raise
    for instance in instances:
        instance.spec = replace(instance.spec, slot=None)  # which it has till its end, and no other after it
    return Thawed(tuple(instances), tuple(networks), tuple(places), moment)


async def _held(networks: Sequence[PrivateNetwork]) -> None:
    for network in networks:
        await network.hold()


def discard(keeper: ClusterKeeper, thawed: Thawed) -> None:
    """End what nobody has wanted."""
    with Cleanup() as cleanup:
        for instance in thawed.instances:
            with cleanup.step():
                keeper.maker.discard(instance)
        for network in thawed.networks:
            with cleanup.step():
                keeper.networks.end(network)


def adopt(
    keeper: ClusterKeeper, name: str, thawed: Thawed, names: Sequence[str], moment: Moment | None = None
) -> Cluster:
    """Let somebody have it.

    :param moment: the one from which it has gone on, if that is kept.
    """
    machines: list[VirtualMachine] = []
    try:
        for number, (instance, places, host) in enumerate(zip(thawed.instances, thawed.places, names, strict=True)):
            machines.append(vm := keeper.adopt(instance))
            vm.take_over(places, host)
            if moment is not None:
                vm.begins_with(moment.templates[number])
            else:
                vm.was_formed_with(name)
    except BaseException:
        for vm in machines:
            vm.close()
        discard(keeper, replace(thawed, instances=thawed.instances[len(machines) :]))
        raise
    return Cluster(name, machines, thawed.networks, keeper, names=names, moment=moment)


def around(keeper: ClusterKeeper, network: PrivateNetwork) -> Cluster:
    """All machines that are on a network, or on one that these are on, as they are now.

    :raises VmError: there are none.
    """
    machines: dict[VirtualMachine, str] = {}
    networks = [network]
    for one in networks:  # which grow meanwhile
        for host, vm in one.hosts.items():
            if isinstance(vm, VirtualMachine) and vm not in machines:
                machines[vm] = host
                networks += [other for other in vm.places if other not in networks]
    if not machines:
        raise VmError(f"{network.label}: nobody is on it")
    return Cluster(network.label, tuple(machines), networks, keeper, names=tuple(machines.values()))
