"""Owns a network's own station as we see it: it is told who is on the network, and tells who has taken its address."""

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pytest_readonly_vm.channels.history import History
from pytest_readonly_vm.errors import NetworkError, SwitchDied, WaitTimeout
from pytest_readonly_vm.host.loop import LoopThread
from pytest_readonly_vm.network.services import Services
from pytest_readonly_vm.network.subnet import CardAddress, Subnet
from pytest_readonly_vm.network.switch_process import SwitchProcess


@dataclass(slots=True)
class _Expected:
    """A machine that is waited for."""

    present: asyncio.Future[None]
    waiting: int = 0
    """How many wait."""


class Station:
    """What the switch answers by itself."""

    def __init__(
        self,
        switch: SwitchProcess,
        services: Services,
        subnet: Subnet,
        *,
        domain: str,
        mtu: int | None,
        history: History,
    ) -> None:
        """`history` is the network's, which has it when the station could not be told something."""
        self.services = services
        self._switch = switch
        self._subnet = subnet
        self._domain = domain
        self._mtu = mtu
        self._history = history
        self._expected: dict[str, _Expected] = {}  # by MACs
        switch.on_present = self._note_present

    def tell(self, hosts: Mapping[str, CardAddress], loop: LoopThread) -> None:
        """Have it know who is on the network, before the switch is asked for anything else."""
        if self.services.is_any:
            facts = self.services.facts(self._subnet, self._domain, self._mtu, hosts)
            asyncio.run_coroutine_threadsafe(self._tell(facts), loop.loop)

    async def _tell(self, facts: Mapping[str, Any]) -> None:
        try:
            await self._switch.ask("serve", **facts)
        except SwitchDied:  # of which the test hears
            pass
        except NetworkError as error:
            self._history.note("network", f"its services were not told who is on it: {error}")

    async def wait_for(self, address: CardAddress, *, timeout: float, of: str) -> None:
        """Until a machine answers to the address that the network's DHCP has for it; on the loop.

        :param of: the machine's name.
        :raises WaitTimeout: it does not within so many seconds.
        :raises SwitchDied: there is no switch any more.
        """
        mac = address.mac
        expected = self._expected.setdefault(mac, _Expected(asyncio.get_running_loop().create_future()))
        expected.waiting += 1
        try:
            await self._switch.ask("expect", mac=mac, is_wanted=True)
            async with asyncio.timeout(timeout):
                await asyncio.shield(expected.present)
        except TimeoutError:
            error = WaitTimeout(f"{of}: nobody answers as {address.ipv4} on {self._switch.label} within {timeout:g} s")
            error.add_note(
                "a guest has to ask for the address by itself; networkd does where it is told to manage such a card, "
                "otherwise run a DHCP client: vm.run(f'dhclient {vm.interface(network)}')"
            )
            raise error from None
        finally:
            expected.waiting -= 1
            if not expected.waiting:  # others may wait longer
                del self._expected[mac]
                with contextlib.suppress(NetworkError):
                    await self._switch.ask("expect", mac=mac, is_wanted=False)

    def _note_present(self, mac: str) -> None:
        if (expected := self._expected.get(mac)) is not None and not expected.present.done():
            expected.present.set_result(None)
