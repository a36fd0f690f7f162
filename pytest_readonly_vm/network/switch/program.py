"""Owns the process of a switch: it waits on its ports, on the line to who has started it, and on time.

Started as ``python -c START FD``. It ends when that line does. Requests and answers are JSON, a packet each, and
descriptors come beside them; what is asked for, and what is told unasked, is in `network.switch_process`.
"""

import json
import os
import select
import socket
import sys
import time
from collections import Counter
from functools import partial
from typing import Any, BinaryIO

from pytest_readonly_vm.network.switch.capture import Capture
from pytest_readonly_vm.network.switch.forwarding import Forwarding
from pytest_readonly_vm.network.switch.known import Known
from pytest_readonly_vm.network.switch.mac import mac_of
from pytest_readonly_vm.network.switch.packet import HEAD, kind_of
from pytest_readonly_vm.network.switch.port import Broken, Port
from pytest_readonly_vm.network.switch.rule import Pair, Rule
from pytest_readonly_vm.network.switch.service import NUMBER, Service
from pytest_readonly_vm.network.switch.under_way import read_under_way, write_under_way

_LARGEST_REQUEST = 1 << 20
_ROWS, _PROTOCOLS = 200, 8
"""How much of who talks to whom an answer has room for; a guest may call itself a thousand."""
_NO_ROOM = -1
"""In the place of a port, for frames that were dropped on their way."""
_MOST_ASKED = 64
"""Packets that may wait for answers; then the switch waits, too, as the line to who answers has its bounds."""


class Program:
    """A switch that runs."""

    def __init__(self, control: socket.socket, *, limit: int) -> None:
        """`limit` is how many bytes of frames are remembered."""
        self._control = control
        self._names: dict[int, str] = {}
        self._forwarding = Forwarding(Capture(limit, self._name_of), self._ask)
        self._ports: dict[int, Port] = {}  # by their descriptors, the oldest first
        self._poll = select.epoll()
        self._poll.register(control, select.EPOLLIN)
        self._is_reading = True
        self._service: Service | None = None
        self._talk_since = 0
        self._dropped = Counter[int]()
        """Frames that cards were too slow for whose lines have ended, by their ports."""
        self._dropped_before = Counter[int]()
        self._connected: dict[int, int] = {}
        """When ports had their first lines, in nanoseconds since the epoch."""

    def _name_of(self, port: int) -> str:
        return self._names.get(port, str(port))

    def run(self) -> None:
        """Until the line to who has started it is closed."""
        control = self._control.fileno()
        while True:
            patience = self._forwarding.patience()
            if self._service is not None and (sooner := self._service.patience()) is not None:
                patience = sooner if patience is None else min(patience, sooner)
            for descriptor, event in self._poll.poll(patience):
                if descriptor == control:
                    if not self._serve():
                        return
                elif (port := self._ports.get(descriptor)) is not None:
                    if event & select.EPOLLOUT:
                        port.push()
                    if event & ~select.EPOLLOUT:
                        self._hear(port, event)
            self._forwarding.tick()
            if self._service is not None:
                self._service.tick()
            self._bound_questions()

    # Ports.
    #
    # When a machine is made anew, its new QEMU is connected before the old one ends, which runs on if the new one does
    # not come up. So the older line of a number waits: what its machine says meanwhile stays in its socket.

    def _is_current(self, port: Port) -> bool:
        return self._forwarding.outlets.get(port.number) is port

    def _current(self) -> list[Port]:
        """Those that are no older line of a port."""
        return [port for port in self._ports.values() if self._is_current(port)]

    def _hear(self, port: Port, event: int) -> None:
        if self._is_current(port):
            self._read(port)
        elif event & (select.EPOLLHUP | select.EPOLLERR):
            self._close(port)

    def _read(self, port: Port) -> bool:
        """Take in what has come from a port; whether that was something."""
        why = ""
        try:
            packets = port.take()
        except Broken as broken:
            packets, why = None, f"its card sent {broken}"
        if packets is None:
            self._close(port)
            self._tell(event="ended", port=port.number, why=why)
        elif packets:
            self._forwarding.receive(port.number, packets)
        return bool(packets)

    def _watch(self, port: Port) -> None:
        """Have epoll tell of what the port is to hear of; of its end it tells in any case."""
        events = 0
        if self._is_current(port):
            events = (select.EPOLLIN if self._is_reading else 0) | (select.EPOLLOUT if port.is_waiting else 0)
        self._poll.modify(port.line, events)

    def _bound_questions(self) -> None:
        is_reading = self._forwarding.asking < _MOST_ASKED
        if is_reading != self._is_reading:
            self._is_reading = is_reading
            for port in self._ports.values():
                self._watch(port)

    def _close(self, port: Port) -> None:
        descriptor = port.line.fileno()
        self._poll.unregister(descriptor)
        del self._ports[descriptor]
        self._dropped[port.number] += port.overflowed
        port.close()
        if not self._is_current(port):
            return
        older = [one for one in self._ports.values() if one.number == port.number]
        if older:
            self._names[port.number] = older[-1].name
            self._forwarding.outlets[port.number] = older[-1]  # what is under way is for it: it has been there before
            self._watch(older[-1])
        else:
            self._forwarding.disconnect(port.number)

    # The line to who has started it.

    def _serve(self) -> bool:
        """Answer one request; False when the line is closed."""
        data, descriptors, _, _ = socket.recv_fds(self._control, _LARGEST_REQUEST, 4)
        if not data:
            return False
        request = json.loads(data)
        number, name = request.pop("id"), request.pop("do")
        files = [os.fdopen(descriptor, "r+b") for descriptor in descriptors if name in _WITH_FILE]
        try:
            result = getattr(self, f"_do_{name}")(*(files or descriptors), **request)
        except (OSError, LookupError, ValueError) as error:
            self._tell(id=number, error=f"{type(error).__name__}: {error}")
        else:
            self._tell(id=number, result=result)
        return True

    def _tell(self, **message: object) -> None:
        self._control.send(json.dumps(message).encode())

    def _ask(self, number: int, rule: Rule, pair: Pair, packet: bytes) -> None:
        self._tell(event="asked", number=number, rule=rule.number, pair=pair, frame=packet[HEAD:].hex())

    def _do_connect(self, line: int, *, number: int, name: str) -> None:
        port = Port(number, name, socket.socket(fileno=line), self._watch)
        older = [one for one in self._ports.values() if one.number == number]
        self._names[number] = name
        self._connected.setdefault(number, time.time_ns())
        self._ports[line] = port
        self._poll.register(line, 0)
        self._forwarding.connect(port)
        for one in (*older, port):
            self._watch(one)

    def _do_disconnect(self, *, number: int) -> None:
        for port in [port for port in self._ports.values() if port.number == number]:  # the current one at last
            self._close(port)

    def _do_serve(self, **facts: Any) -> None:
        known = Known.of(facts)
        if self._service is not None:
            self._service.known = known
            return
        send = partial(self._forwarding.receive, NUMBER)
        self._service = Service(known, send, lambda mac: self._tell(event="present", mac=mac.hex(":")))
        self._names[NUMBER] = self._service.name
        self._forwarding.connect(self._service)

    def _do_expect(self, *, mac: str, is_wanted: bool) -> None:
        if self._service is not None:
            self._service.expect(mac_of(mac), is_wanted=is_wanted)

    def _do_fault(self, *, number: int, **wanted: Any) -> None:
        self._forwarding.rules[number] = Rule(number, wanted, self._name_of)

    def _do_counts(self, *, number: int) -> dict[str, object]:
        return _counts(self._forwarding.rules[number])

    def _do_mend(self, *, number: int) -> dict[str, object]:
        return _counts(self._forwarding.remove(number))

    def _do_answer(self, *, answers: list[tuple[int, bool]]) -> None:
        for number, is_for in answers:
            self._forwarding.answer(number, is_for)

    def _do_capture(self, target: BinaryIO, *, number: int) -> None:
        self._forwarding.capture.begin(number, target)

    def _do_end_capture(self, *, number: int) -> int:
        return self._forwarding.capture.end(number)

    def _do_dump(self, target: BinaryIO) -> int:
        return self._forwarding.capture.dump(target)

    def _do_talk(self) -> list[dict[str, object]]:
        """Who has sent how much to whom since `forget_talk`, those who sent most first.

        By which protocols, is known of the frames that are remembered: the most frequent ones.
        """
        forwarding = self._forwarding
        protocols: dict[Pair, Counter[str]] = {}
        for taken, source, packet in forwarding.capture.remembered():
            if taken < self._talk_since:
                continue
            kind = kind_of(packet)
            port = min(filter(None, (kind.source_port, kind.destination_port)), default=0)
            name = f"{kind.protocol}/{port}" if port else kind.protocol
            for target in forwarding.targets(source, packet):
                if self._connected.get(target, 0) > taken:
                    continue
                protocols.setdefault((source, target), Counter())[name] += 1
        most = sorted(forwarding.talk.items(), key=lambda row: row[1][1], reverse=True)[:_ROWS]
        return [
            {
                "source": self._name_of(pair[0]),
                "to": self._name_of(pair[1]),
                "frames": frames,
                "bytes": size,
                "protocols": dict(protocols.get(pair, Counter()).most_common(_PROTOCOLS)),
            }
            for pair, (frames, size) in most
        ]

    def _do_forget_talk(self) -> None:
        self._forwarding.talk.clear()
        self._talk_since = time.time_ns()
        self._dropped_before = self._all_dropped()

    def _all_dropped(self) -> Counter[int]:
        """Frames that were dropped, by the ports that were too slow for them, and those for which no room was left."""
        dropped = self._dropped.copy()
        for port in self._ports.values():
            dropped[port.number] += port.overflowed
        dropped[_NO_ROOM] = self._forwarding.overflowed
        return dropped

    def _do_dropped(self) -> dict[str, object]:
        """Those since `forget_talk`: to which machines, and how many as too much was late or held."""
        dropped = self._all_dropped() - self._dropped_before
        no_room = dropped.pop(_NO_ROOM, 0)
        return {
            "to": [[self._name_of(number), frames] for number, frames in dropped.most_common(_ROWS)],
            "late": no_room,
        }

    def _do_ports(self) -> list[dict[str, object]]:
        return [
            {
                "number": port.number,
                "received": port.received,
                "sent": port.sent,
                "overflowed": port.overflowed,
            }
            for port in self._current()
        ]

    def _do_hold(self) -> None:
        self._forwarding.hold()

    def _do_unread(self) -> int:
        """The most bytes that are on their way to a card which has not taken them."""
        return max((port.unread for port in self._current()), default=0)

    def _do_under_way(self, target: BinaryIO) -> int:
        """Write what is held, once all that has come is read."""
        for port in self._current():
            while self._read(port):
                pass
        with target:
            return write_under_way(target, self._forwarding.under_way())

    def _do_go_on(self, source: BinaryIO | None = None) -> None:
        self._forwarding.go_on(read_under_way(source) if source else None)


_WITH_FILE = ("capture", "dump", "under_way", "go_on")


def _counts(rule: Rule) -> dict[str, object]:
    return {"counts": rule.counts, "pairs": [[*pair, hits] for pair, hits in rule.pairs_hit.items()]}


def main() -> None:
    """``FD LIMIT``: the line to who has started it, and how many bytes of frames are remembered."""
    descriptor, limit = map(int, sys.argv[1:])
    Program(socket.socket(fileno=descriptor), limit=limit).run()
