"""Owns sockets that are plugged into a private network where machines have cards: the switch cannot tell them apart."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pytest_readonly_vm import Lab
from pytest_readonly_vm.machine.member import Member
from pytest_readonly_vm.machine.private_network import PrivateNetwork
from tests.network import frames
from tests.qemu.waiting import GENEROUS, eventually


def ask(lan: PrivateNetwork, do: str, *descriptors: int, **request: Any) -> Any:
    """What the switch answers to a request of its control line."""
    return on_loop(lan, lambda: lan._switch.ask(do, *descriptors, **request))


def on_loop(lan: PrivateNetwork, work: Callable[[], Any]) -> Any:
    """Run a coroutine where a network's own run."""
    return asyncio.run_coroutine_threadsafe(work(), lan._loop.loop).result(GENEROUS)


class Plug:
    """A place on a network, with a socket that says and hears what the machine's card would."""

    def __init__(self, lan: PrivateNetwork, name: str, number: int) -> None:
        self.lan = lan
        self.name = name
        self.mac = frames.mac(number)
        self.ip = str(lan.subnet[9 + number])
        self.sent = 0
        """Frames that were given to the switch."""
        self._heard = 0
        self._rest = b""
        self.member: Member = lan.join(name, card=1)
        self.socket: socket.socket = on_loop(lan, lambda: lan.connect(self.member))
        self.socket.settimeout(GENEROUS)

    def send(self, *packets: bytes) -> None:
        """Give frames to the switch."""
        self.socket.sendall(b"".join(len(one).to_bytes(4, "big") + one for one in packets))
        self.sent += len(packets)

    def hear(self, count: int) -> list[bytes]:
        """The next frames that come from the switch, exactly so many."""
        found: list[bytes] = []
        while len(found) < count:
            size = int.from_bytes(self._rest[:4], "big") if len(self._rest) >= 4 else 0
            if size and len(self._rest) >= 4 + size:
                found.append(self._rest[4 : 4 + size])
                self._rest = self._rest[4 + size :]
                continue
            data = self.socket.recv(1 << 20)
            assert data, f"the switch has closed the line to {self.name}"
            self._rest += data
        self._heard += count
        return found

    def heard(self) -> list[bytes]:
        """All frames that the switch has passed on so far, since the last call; see `Plugs.settle`."""
        return self.hear(self.counters()["sent"] - self._heard)

    def counters(self) -> dict[str, int]:
        """What the switch counts of this port."""
        return next(port for port in ask(self.lan, "ports") if port["number"] == self.member.port)


class Plugs(dict[str, Plug]):
    """Those of one network, by their names."""

    def __init__(self, lan: PrivateNetwork) -> None:
        super().__init__()
        self.lan = lan

    def add(self, name: str) -> Plug:
        """One more, which the switch has heard, so that frames to it go to it alone."""
        number = len(self) + 1
        self[name] = plug = Plug(self.lan, name, number)
        plug.send(frames.frame(plug.mac, plug.mac))
        self.settle()
        return plug

    def settle(self) -> None:
        """Wait until the switch has read all that was sent. What is not late is in the sockets then."""

        def read() -> bool:
            received = {port["number"]: port["received"] for port in ask(self.lan, "ports")}
            return all(received.get(plug.member.port, plug.sent) == plug.sent for plug in self.values())

        eventually(read, "the switch has read what was sent")

    def udp(self, source: str, to: str, payload: bytes = b"", *, ports: tuple[int, int] = (40000, 7)) -> bytes:
        """A datagram of UDP from one of them to another."""
        one, other = self[source], self[to]
        return frames.udp(other.mac, one.mac, payload, ports=ports, addresses=(one.ip, other.ip))

    def tcp(self, source: str, to: str, payload: bytes = b"", *, ports: tuple[int, int] = (40000, 80)) -> bytes:
        """A segment of TCP from one of them to another."""
        one, other = self[source], self[to]
        return frames.tcp(other.mac, one.mac, payload, ports=ports, addresses=(one.ip, other.ip))

    def numbered(self, source: str, to: str, count: int, *, ports: tuple[int, int] = (40000, 7)) -> None:
        """Send datagrams of UDP with 0, 1, 2, … in them."""
        self[source].send(*(self.udp(source, to, str(number).encode(), ports=ports) for number in range(count)))


def numbers(heard: list[bytes]) -> list[int]:
    """What is in datagrams of `Plugs.numbered`."""
    return [int(one[42:]) for one in heard]


@contextlib.contextmanager
def plugged(lan: PrivateNetwork, *names: str) -> Iterator[Plugs]:
    """A network with plugs of these names; they are pulled out in the end."""
    plugs = Plugs(lan)
    try:
        for name in names:
            plugs.add(name)
        yield plugs
    finally:
        for plug in plugs.values():
            plug.socket.close()
            lan.leave(plug.member)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A lab that all tests of a module have in common; each makes networks of its own."""
    with Lab() as made:
        yield made


@pytest.fixture
def lan(lab: Lab, request: pytest.FixtureRequest) -> Iterator[PrivateNetwork]:
    """A private network of a test's own."""
    made = lab.networks.make("lan", owner=request.node.name)
    yield made
    lab.networks.end(made)


@pytest.fixture
def plugs(lan: PrivateNetwork) -> Iterator[Plugs]:
    """It with plugs that are called one, two and three."""
    with plugged(lan, "one", "two", "three") as found:
        yield found
