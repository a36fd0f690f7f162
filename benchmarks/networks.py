"""Measures private networks: how long a card takes to be there, what the switch passes on, and what it adds to a ping.

Frames are counted with processes where machines have cards, so that no guest limits them; pings are between guests, by
a switch and by a pair of sockets without one, in turns.
"""

import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import guests
from benchmarks.samples import Samples
from benchmarks.stopwatch import Stopwatch
from benchmarks.table import Table
from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.machine.lab import Lab
from pytest_readonly_vm.machine.member import Member
from pytest_readonly_vm.machine.private_network import PrivateNetwork
from tests.network.frames import frame
from tests.network.plugs import Plug, ask

RUNS = 20

_PLUGGED, _UNPLUGGED = "plugged into a clone that runs, and addressed", "unplugged"
_WITH, _WITHOUT = "a clone with a card, up to its first command", "a clone without"
_FRAMES = 100_000
_SIZE = 1514
_AT_ONCE = 64
_PINGS = 5
_TIME = re.compile(r"time=([\d.]+) ms")

_SENDER = """\
import socket, sys
card, data, times = socket.socket(fileno=int(sys.argv[1])), sys.stdin.buffer.read(), int(sys.argv[2])
for _ in range(times):
    card.sendall(data)
"""
_RECEIVER = """\
import socket, sys
card = socket.socket(fileno=int(sys.argv[1]))
while card.recv(1 << 20):
    pass
"""


def tables(runs: int) -> Iterator[Table]:
    """Cards, frames, pings."""
    for name, guest in guests.both().items():
        yield _cards(name, guest.replace(start="clone", no_cache=True), runs)
    yield _frames(max(runs // 4, 2))
    yield _pings(runs)


def _cards(name: str, config: VmConfig, runs: int) -> Table:
    watch = Stopwatch()
    with Lab() as lab:
        lan = lab.networks.make("lan")
        lab.start(config, name="template").close()
        for number in range(runs + 1):
            watch.next_round()
            with watch.timing(_WITHOUT):
                vm = lab.start(config, name="plain")
                vm.run("true")
            with watch.timing(_PLUGGED):
                vm.plug(lan)
            with watch.timing(_UNPLUGGED):
                vm.unplug(lan)
            vm.close()
            with watch.timing(_WITH):
                vm = lab.start(config, name="with a card", networks=[lan])
                vm.run("true")
            vm.close()
            if not number:  # which warms caches up
                watch.forget_round()
    table = Table(f"{name}: a card on a private network", "ms")
    for label in (_PLUGGED, _UNPLUGGED, _WITHOUT, _WITH):
        table.add(label, watch.samples(label))
    return table


def _frames(runs: int) -> Table:
    """From one process to another, as fast as the switch takes them."""
    table = Table(f"The switch: frames of {_SIZE} bytes from one card to another", "frames/s")
    paces: dict[str, list[float]] = {}
    lost = 0
    with Lab() as lab, TemporaryDirectory(dir="/var/tmp") as folder:
        for number in range(runs):
            for how in ("the last ones remembered, as always", "all written to a file as well"):
                lan = lab.networks.make("lan")
                path = Path(folder) / f"{number}.pcapng"
                with lan.capture(path) if how.startswith("all") else nullcontext():
                    pace, dropped = _pace(lan)
                paces.setdefault(how, []).append(pace)
                lost += dropped
                path.unlink(missing_ok=True)
                lab.networks.end(lan)
    for how, found in paces.items():
        table.add(how, Samples(tuple(found)))
    sent = _FRAMES * runs * len(paces)
    table.notes.append(
        f"{_FRAMES} frames each time; of all {sent}, {lost} were dropped as their card was too slow, and do not count."
    )
    return table


def _pace(lan: PrivateNetwork) -> tuple[float, int]:
    """Frames a second, up to the last one that the other process has read, and how many were dropped."""
    source, target = Plug(lan, "source", 1), Plug(lan, "target", 2)
    target.send(frame(target.mac, target.mac))  # by which the switch knows where it is
    packet = frame(target.mac, source.mac, b"x" * (_SIZE - 14))
    data = (len(packet).to_bytes(4, "big") + packet) * _AT_ONCE
    times = _FRAMES // _AT_ONCE
    with source.socket, target.socket, ExitStack() as cards:  # ours stay open, as a port without a card counts no more
        receiver = cards.enter_context(_process(_RECEIVER, target.socket))
        cards.callback(receiver.kill)
        sender = cards.enter_context(_process(_SENDER, source.socket, str(times), has_input=True))
        assert sender.stdin is not None
        sender.stdin.write(data)
        begun = time.perf_counter()
        sender.stdin.close()
        while not sender.poll() and (source.counters()["received"] < times * _AT_ONCE or ask(lan, "unread")):
            time.sleep(0.005)
        seconds = time.perf_counter() - begun
        passed = target.counters()
    if sender.returncode:
        raise RuntimeError(f"what sends frames failed: {sender.returncode}")
    return passed["sent"] / seconds, passed["overflowed"]


def _process(program: str, card: socket.socket, *words: str, has_input: bool = False) -> "subprocess.Popen[bytes]":
    """A process that has a card's socket, as we have."""
    card.setblocking(True)
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", program, str(card.fileno()), *words],
        pass_fds=(card.fileno(),),
        stdin=subprocess.PIPE if has_input else subprocess.DEVNULL,
    )


def _pings(runs: int) -> Table:
    """The same two guests have a card on each network, and neither does anything else."""
    config = guests.tiny().replace(ready="auto", start="clone", no_cache=True)
    found: dict[str, list[float]] = {"by a pair of sockets": [], "by the switch": []}
    with Lab() as lab:
        pair, switched = (lab.networks.make(name) for name in ("pair", "switched"))
        _connect_directly(pair)
        one, other = (lab.start(config, name=name, networks=[pair, switched]) for name in ("one", "other"))
        for number in range(runs + 1):
            for how, lan in zip(found, (pair, switched), strict=True):
                told = one.run(f"ping -c {_PINGS} -i 0.1 {other.address(lan)}").stdout
                if number:
                    found[how] += [float(match) / 1e3 for match in _TIME.findall(told)]
    table = Table("Tiny Linux: a ping from one guest to another, there and back", "ms")
    for how, times in found.items():
        table.add(how, Samples(tuple(times)))
    (_, direct), (_, by_switch) = table.rows
    table.note_minima("the switch", by_switch, direct)
    table.notes.append(f"Difference of the medians: {1e3 * (by_switch.median - direct.median):.2f} ms.")
    return table


def _connect_directly(lan: PrivateNetwork) -> None:
    """Have the first two cards of a network be at both ends of one line."""
    ends = iter(socket.socketpair())

    async def connect(member: Member) -> socket.socket:
        return next(ends)

    lan.connect = connect  # type: ignore[method-assign]
