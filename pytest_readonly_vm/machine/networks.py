"""Owns the private networks of one run: their making, and that none outlives it."""

import itertools
import threading

from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.errors import NetworkError, VmError
from pytest_readonly_vm.host.cleanup import Cleanup
from pytest_readonly_vm.machine.private_network import PrivateNetwork
from pytest_readonly_vm.network.subnet import Subnet
from pytest_readonly_vm.network.switch_process import SwitchProcess
from pytest_readonly_vm.qemu.resources import Resources

REMEMBERED = 4 << 20
"""Bytes of frames that each network remembers."""

_MTU = (576, 65535)


class Networks:
    """Makes them. Any thread may call."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._lock = threading.Lock()
        self._open: dict[int, PrivateNetwork] = {}

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
    ) -> PrivateNetwork:
        """A new network; `close` ends it at the latest.

        :param owner: whose it is, for messages.
        :param first: the lowest number that it may have, by which its addresses go.
        :raises NetworkError: the subnets or the MTU cannot be.
        :raises StartFailed: its switch cannot be started.
        """
        if mtu is not None and not _MTU[0] <= mtu <= _MTU[1]:
            raise NetworkError(f"mtu={mtu}: not from {_MTU[0]} to {_MTU[1]}")
        label = f"network {name}{f' of {owner}' if owner else ''}"
        with self._lock:
            number = next(number for number in itertools.count(first) if number not in self._open)
            addresses = Subnet.of(number, ipv4=subnet, ipv6=subnet6)
            switch = SwitchProcess(
                self._resources.spawner,
                self._resources.loop,
                label=label,
                run_folder=self._resources.run_folder(VmConfig()),
                remembered=REMEMBERED,
            )
            network = self._open[number] = PrivateNetwork(
                name,
                switch,
                addresses,
                loop=self._resources.loop,
                output_guard=self._resources.output_guard,
                mtu=mtu,
                configure=configure,
            )
        return network

    def end(self, network: PrivateNetwork) -> None:
        """End one; a second call does nothing."""
        with self._lock:
            number = next((number for number, one in self._open.items() if one is network), None)
            if number is not None:
                del self._open[number]
        if number is not None:
            try:
                self._resources.loop.run(network.end())
            except TimeoutError as error:
                raise VmError(str(error)) from None

    @property
    def open(self) -> tuple[PrivateNetwork, ...]:
        """Those that there are."""
        return tuple(self._open.values())

    def close(self) -> None:
        """End all."""
        with Cleanup() as cleanup:
            for network in self.open:
                with cleanup.step():
                    self.end(network)
