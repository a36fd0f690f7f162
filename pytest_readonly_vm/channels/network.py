"""Owns ports on the host's loopback that lead to ports in the guest, opened and closed while the guest runs.

QEMU's user network can be told so by its human monitor only:
https://www.qemu.org/docs/master/system/monitor.html (``hostfwd_add``, ``hostfwd_remove``, ``info usernet``).
"""

import asyncio
import contextlib
import re
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Self

from pytest_readonly_vm.channels.qmp import Qmp
from pytest_readonly_vm.errors import VmError
from pytest_readonly_vm.host.loop import LoopThread

_NETWORK = "net0"
_LOOPBACK = "127.0.0.1"
# "TCP[HOST_FORWARD]  12   127.0.0.1 40123   10.0.2.15    22     0     0": descriptor, source, destination, queues.
_LISTENER = re.compile(r"^\s*(TCP|UDP)\[HOST_FORWARD\]\s+(\d+)\s+127\.0\.0\.1\s+(\d+)\s+\S+\s+(\d+)\s", re.MULTILINE)


class _Address(NamedTuple):
    host: str
    port: int


class Forward(_Address):
    """Where on the host a port of the guest is reached. A pair, as `socket.create_connection` and ``sendto`` take it.

    As a context it is closed at the end, if it has not been before. QEMU listens there whether anything listens in the
    guest or not: a connection may be accepted and closed again.
    """

    _close: Callable[[], None]

    @classmethod
    def opened(cls, host: str, port: int, *, close: Callable[[], None]) -> Self:
        forward = cls(host, port)
        forward._close = close
        return forward

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(VmError):  # it is closed, or its QEMU has ended, and it with that
            self._close()


class Network:
    """What leads from the host into one guest."""

    def __init__(self, loop: LoopThread, qmp: Qmp, name: str) -> None:
        self._loop = loop
        self._qmp = qmp
        self._name = name
        self._adding = asyncio.Lock()

    # On the loop's thread.

    async def add_forward(self, guest_port: int, *, host_port: int = 0, udp: bool = False) -> Forward:
        """As `forward`, on the loop."""
        rule = f"{_protocol(udp)}:{_LOOPBACK}:{host_port}-:{guest_port}"
        async with self._adding:  # QEMU does not say which port it chose: it is the one that was not there before
            before = await self._listeners()
            if complaint := await self._human(f"hostfwd_add {_NETWORK} {rule}"):
                where = f"{_LOOPBACK}:{host_port}" if host_port else _LOOPBACK
                raise VmError(f"{self._name}: guest port {guest_port} cannot be forwarded to {where}: {complaint}")
            [(*_, port, _)] = await self._listeners() - before
        address = (_LOOPBACK, int(port))
        return Forward.opened(*address, close=partial(self.unforward, address, udp=udp))

    async def remove_forward(self, address: tuple[str, int], *, udp: bool = False) -> None:
        """As `unforward`, on the loop."""
        host, port = address
        answer = await self._human(f"hostfwd_remove {_NETWORK} {_protocol(udp)}:{host}:{port}")
        if not answer.endswith("removed"):
            raise VmError(f"{self._name}: {host}:{port} is no forward of this machine")

    async def _listeners(self) -> set[tuple[str, ...]]:
        status = await self._human("info usernet")
        if f"({_NETWORK})" not in status:
            raise VmError(f"{self._name}: the machine has no network whose ports could be forwarded (network=user has)")
        return set(_LISTENER.findall(status))

    async def _human(self, command: str) -> str:
        return str(await self._qmp.command("human-monitor-command", {"command-line": command})).strip()

    # On any thread.

    def forward(self, guest_port: int, *, host_port: int = 0, udp: bool = False) -> Forward:
        """Make a port of the guest reachable from this computer, and from no other; until `unforward`, or its end.

        :param host_port: the port on the host's loopback; 0 lets QEMU take a free one.
        :param udp: a UDP port; otherwise TCP.
        :raises VmError: the machine has no network, or the port on the host is taken.
        :raises GuestDied: QEMU ended.
        """
        return self._loop.run(self.add_forward(guest_port, host_port=host_port, udp=udp))

    def unforward(self, address: tuple[str, int], *, udp: bool = False) -> None:
        """Close what `forward` opened. Connections through it live on.

        :raises VmError: it is not open, or is the other of TCP and UDP.
        :raises GuestDied: QEMU ended.
        """
        self._loop.run(self.remove_forward(address, udp=udp))


def _protocol(udp: bool) -> str:
    return "udp" if udp else "tcp"
