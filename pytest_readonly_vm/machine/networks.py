"""Owns the private networks of one run: their making, and that none outlives it."""

import itertools
import threading
from collections.abc import Callable
from typing import Any

from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.errors import NetworkError, VmError
from pytest_readonly_vm.host.cleanup import Cleanup
from pytest_readonly_vm.machine.member import Member
from pytest_readonly_vm.machine.private_network import PrivateNetwork, Together
from pytest_readonly_vm.network.services import Services
from pytest_readonly_vm.network.subnet import Subnet
from pytest_readonly_vm.network.switch_process import SwitchProcess
from pytest_readonly_vm.qemu.resources import Resources
from pytest_readonly_vm.start.cluster_state import NetworkState

REMEMBERED = 4 << 20
"""Bytes of frames that each network remembers."""

_MTU = (576, 65535)


class Networks:
    """Makes them. Any thread may call."""

    def __init__(self, resources: Resources, together: Callable[[PrivateNetwork], Together]) -> None:
        """`together` makes one of all machines that are on a network, or on one that these are on."""
        self._resources = resources
        self._together = together
        self._lock = threading.RLock()
        self._open: tuple[PrivateNetwork, ...] = ()

    def again(self, state: NetworkState, *, owner: str) -> tuple[PrivateNetwork, dict[int, Member]]:
        """A network like one that was frozen, and the places on it, by the numbers of the machines.

        :raises StartFailed: its switch cannot be started.
        """
        addresses = Subnet.of(state.number, ipv4=state.subnet, ipv6=state.subnet6)
        options = {**state.options, "services": Services(**state.options["services"])}
        with self._lock:
            network = self._opened(state.name, owner, addresses, **options)
        return network, {member.machine: network.seat(member) for member in state.members}

    def make(
        self,
        name: str,
        *,
        owner: str = "",
        first: int = 0,
        subnet: str | None = None,
        subnet6: str | None = None,
        mtu: int | None = None,
        configure: bool = True,
        **services: Any,
    ) -> PrivateNetwork:
        """A new network; `close` ends it at the latest.

        :param owner: whose it is, for messages.
        :param first: the lowest number that it may have, by which its addresses go.
        :param services: those of `Services`.
        :raises NetworkError: the subnets, the MTU or the services cannot be.
        :raises StartFailed: its switch cannot be started.
        """
        if mtu is not None and not _MTU[0] <= mtu <= _MTU[1]:
            raise NetworkError(f"mtu={mtu}: not from {_MTU[0]} to {_MTU[1]}")
        offered = Services(**services)
        with self._lock:
            taken = {network.number for network in self._open}
            number = next(number for number in itertools.count(first) if number not in taken)
            addresses = Subnet.of(number, ipv4=subnet, ipv6=subnet6)
            offered.router(addresses, {})
            return self._opened(name, owner, addresses, mtu=mtu, configure=configure, services=offered)

    def _opened(self, name: str, owner: str, subnet: Subnet, **options: Any) -> PrivateNetwork:
        resources = self._resources
        switch = SwitchProcess(
            resources.spawner,
            resources.loop,
            label=f"network {name}{f' of {owner}' if owner else ''}",
            run_folder=resources.run_folder(VmConfig()),
            remembered=REMEMBERED,
        )
        network = PrivateNetwork(
            name,
            switch,
            subnet,
            together=self._together,
            loop=resources.loop,
            output_guard=resources.output_guard,
            **options,
        )
        self._open = (*self._open, network)
        return network

    def end(self, network: PrivateNetwork) -> None:
        """End one; a second call does nothing."""
        with self._lock:
            if network not in self._open:
                return
            self._open = tuple(one for one in self._open if one is not network)
        try:
            self._resources.loop.run(network.end())
        except TimeoutError as error:
            raise VmError(str(error)) from None

    @property
    def open(self) -> tuple[PrivateNetwork, ...]:
        """Those that there are."""
        return self._open

    def close(self) -> None:
        """End all."""
        with Cleanup() as cleanup:
            for network in self.open:
                with cleanup.step():
                    self.end(network)
