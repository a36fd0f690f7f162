"""Owns the way of frames from port to port: what has learned where addresses are, what faults do, what is held."""

import heapq
import itertools
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Protocol

from pytest_readonly_vm.network.switch.capture import Capture
from pytest_readonly_vm.network.switch.packet import FROM, HEAD, TO, kind_of
from pytest_readonly_vm.network.switch.rule import Pair, Rule, Timed

_KNOWN = 4096
"""Addresses that are remembered; more has only a guest that floods the switch."""
_MOST_UNSETTLED = 4096
"""Frames that a capture is not given as long as somebody is asked of one of them."""
_MOST_KEPT = 64 << 20
"""Bytes of packets that are late, or held; what is more is dropped, as who can send so many is not to have all memory.
"""
_LONGEST_HELD = 0.1
"""Seconds for which a packet waits to be overtaken."""


class Outlet(Protocol):
    """What a packet is given to: a port, or a service of the switch itself."""

    number: int
    name: str

    def give(self, packets: list[bytes]) -> None: ...


Ask = Callable[[int, Rule, Pair, bytes], None]
"""Has somebody decide whether a rule is for a packet, under a number; see `Forwarding.answer`."""


class Forwarding:
    """What a switch does with packets."""

    def __init__(self, capture: Capture, ask: Ask) -> None:
        self.capture = capture
        self.outlets: dict[int, Outlet] = {}
        self.rules: dict[int, Rule] = {}
        self.talk: dict[Pair, list[int]] = {}
        """Frames and bytes from one port to another, lost ones too."""
        self._ask = ask
        self._places: dict[bytes, int] = {}
        self._later: list[tuple[float, int, int, bytes]] = []  # when due, a number for their order, to which port
        self._overtaken: deque[tuple[float, Rule, Pair, Timed]] = deque()
        self._asked: dict[int, tuple[Rule, Pair, Timed]] = {}
        self._numbers = itertools.count()
        self._held: list[tuple[int, bytes]] | None = None
        self._kept = 0  # bytes of what is late or held
        self.overflowed = 0
        """Packets that were dropped, as too much was late or held."""

    def connect(self, outlet: Outlet) -> None:
        """A port from now on; one of the same number gives it its place, and what is under way to that is lost.

        While the network is held nothing is: several machines are made anew then, and `go_on` says what was under way.
        """
        if outlet.number in self.outlets and self._held is None:
            self._lose(outlet.number)
        self.outlets[outlet.number] = outlet

    def disconnect(self, number: int) -> None:
        """No port any more; what is under way to it is lost."""
        self.outlets.pop(number, None)
        self._lose(number)
        self._places = {address: port for address, port in self._places.items() if port != number}

    def _lose(self, number: int) -> None:
        """Forget what is under way to a port: late, to be overtaken, or asked about."""
        self._kept -= sum(len(packet) for _, _, target, packet in self._later if target == number)
        self._later = [late for late in self._later if late[2] != number]
        heapq.heapify(self._later)
        self._overtaken = deque(waiting for waiting in self._overtaken if waiting[2][1] != number)
        self._asked = {asked: about for asked, about in self._asked.items() if about[1][1] != number}
        for rule in self.rules.values():
            rule.held = {pair: waiting for pair, waiting in rule.held.items() if pair[1] != number}
        self._settle()

    def receive(self, source: int, packets: list[bytes]) -> None:
        """Pass on what has come from a port, or keep it while the network is held."""
        if self._held is not None:
            self._held += [(source, packet) for packet in packets if self._is_kept(packet)]
            return
        places, outgoing = self._places, dict[int, list[bytes]]()
        now = 0.0
        self.capture.take(source, packets)
        for packet in packets:
            if not packet[HEAD + 6] & 1:
                places[packet[FROM]] = source
            for target in self.targets(source, packet):
                pair = (source, target)
                if (talked := self.talk.get(pair)) is None:
                    talked = self.talk[pair] = [0, 0]
                talked[0] += 1
                talked[1] += len(packet) - HEAD
                if self.rules:
                    now = now or time.monotonic()
                    left = self._through(pair, Timed(now, packet, packet))
                    outgoing.setdefault(target, []).extend(self._due(target, left, now))
                elif (waiting := outgoing.get(target)) is None:
                    outgoing[target] = [packet]
                else:
                    waiting.append(packet)
        if len(places) > _KNOWN:
            self._forget_the_loudest()
        for target, ready in outgoing.items():
            self._give(target, ready)
        self._settle()

    def _settle(self) -> None:
        if not self._asked or self.capture.unsettled > _MOST_UNSETTLED:
            self.capture.settle()

    def _forget_the_loudest(self) -> None:
        """Forget the addresses of the port that has most, as it floods the switch; those of others are still known."""
        [(loudest, _)] = Counter(self._places.values()).most_common(1)
        self._places = {address: port for address, port in self._places.items() if port != loudest}

    def targets(self, source: int, packet: bytes) -> Iterable[int]:
        """The ports to which a packet goes: the one that its address has sent from, or all others."""
        place = self._places.get(packet[TO])
        if place is None:
            return [number for number in self.outlets if number != source]
        return (place,) if place != source else ()

    def _give(self, target: int, packets: list[bytes]) -> None:
        if self._held is not None:
            for packet in packets:
                self._keep(time.monotonic(), target, packet)
        elif packets and (outlet := self.outlets.get(target)) is not None:
            outlet.give(packets)

    def _keep(self, due: float, target: int, packet: bytes) -> None:
        if self._is_kept(packet):
            heapq.heappush(self._later, (due, next(self._numbers), target, packet))

    def _is_kept(self, packet: bytes) -> bool:
        """Whether there is room for one more packet, which takes it."""
        if is_kept := self._kept + len(packet) <= _MOST_KEPT:
            self._kept += len(packet)
        else:
            self.overflowed += 1
        return is_kept

    @property
    def asking(self) -> int:
        """Packets that wait for an answer."""
        return len(self._asked)

    # Faults.

    def _through(self, pair: Pair, timed: Timed, *, after: Rule | None = None) -> list[Timed]:
        """What the rules leave of a packet, or those behind one of them."""
        kind = kind_of(timed.packet)
        rules = list(self.rules.values())
        if after is not None:
            rules = [rule for rule in rules if rule.number > after.number]
        current = [timed]
        for rule in rules:
            if not rule.concerns(pair, kind):
                continue
            passed: list[Timed] = []
            for one in current:
                if rule.asks:
                    number = next(self._numbers)
                    self._asked[number] = (rule, pair, one)
                    self._ask(number, rule, pair, one.packet)
                else:
                    passed += self._meet(rule, pair, one)
            current = passed
        return current

    def _meet(self, rule: Rule, pair: Pair, timed: Timed) -> list[Timed]:
        before = rule.held.get(pair)
        left = rule.meet(pair, kind_of(timed.packet), timed)
        if rule.done:
            self.capture.remark(
                timed.origin, f"{rule.label}: {', '.join(rule.done)} on the way to {self._name(pair[1])}"
            )
        if (held := rule.held.get(pair)) is not None and held is not before:
            self._overtaken.append((time.monotonic() + _LONGEST_HELD, rule, pair, held))
        return left

    def _name(self, number: int) -> str:
        outlet = self.outlets.get(number)
        return outlet.name if outlet else "nobody"

    def answer(self, number: int, is_for: bool) -> None:
        """Go on with a packet of which somebody was asked whether a rule is for it."""
        if number not in self._asked:  # the fault has ended meanwhile
            return
        rule, pair, timed = self._asked.pop(number)
        timed = timed._replace(due=max(timed.due, time.monotonic()))
        self._go_on(rule, pair, self._meet(rule, pair, timed) if is_for and rule.number in self.rules else [timed])
        self._settle()

    def _go_on(self, rule: Rule, pair: Pair, left: list[Timed]) -> None:
        """Give what a rule leaves to those behind it, and to its port."""
        passed = [one for timed in left for one in self._through(pair, timed, after=rule)]
        self._give(pair[1], self._due(pair[1], passed, time.monotonic()))

    def _due(self, target: int, passed: list[Timed], now: float) -> list[bytes]:
        """The packets that can be given at once; the others are remembered until they are due."""
        for timed in passed:
            if timed.due > now:
                self._keep(timed.due, target, timed.packet)
        return [timed.packet for timed in passed if timed.due <= now]

    def remove(self, number: int) -> Rule:
        """End a fault. What waits for others to overtake it goes on, and what waits for an answer.

        What is late comes when it is due.
        """
        rule = self.rules.pop(number)
        for asked in [asked for asked, (asking, _, _) in self._asked.items() if asking is rule]:
            self.answer(asked, is_for=False)
        for pair, waiting in tuple(rule.held.items()):
            rule.release(pair, waiting)
            self._go_on(rule, pair, [waiting])
        return rule

    # Time.

    def patience(self) -> float | None:
        """Seconds until something is due, or None."""
        if self._held is not None:
            return None
        first = [queue[0][0] for queue in (self._later, self._overtaken) if queue]
        return max(min(first) - time.monotonic(), 0.0) if first else None

    def tick(self) -> None:
        """Give what is due."""
        if self._held is not None:
            return
        now, due = time.monotonic(), dict[int, list[bytes]]()
        while self._later and self._later[0][0] <= now:
            _, _, target, packet = heapq.heappop(self._later)
            self._kept -= len(packet)
            due.setdefault(target, []).append(packet)
        for target, packets in due.items():
            self._give(target, packets)
        while self._overtaken and self._overtaken[0][0] <= now:
            _, rule, pair, waiting = self._overtaken.popleft()
            if rule.release(pair, waiting):
                self._go_on(rule, pair, [waiting])

    # One moment.

    def hold(self) -> None:
        """Keep all frames that come, and those that are late, from now on."""
        self._held = [] if self._held is None else self._held

    def under_way(self) -> list[tuple[str, int, float, bytes]]:
        """What is held: packets that came ``from`` a port, and those that will be due ``to`` one in so many seconds."""
        now = time.monotonic()
        late = [("to", target, max(due - now, 0.0), packet) for due, _, target, packet in sorted(self._later)]
        waiting = [
            ("to", pair[1], 0.0, timed.packet)
            for _, rule, pair, timed in self._overtaken
            if rule.held.get(pair) is timed
        ]
        waiting += [("to", pair[1], 0.0, timed.packet) for _, pair, timed in self._asked.values()]
        return [*late, *waiting, *(("from", source, 0.0, packet) for source, packet in self._held or ())]

    def go_on(self, under_way: Iterable[tuple[str, int, float, bytes]] | None = None) -> None:
        """Go on after `hold`; with what was held, or with what another switch had held."""
        now = time.monotonic()
        if under_way is None:
            held, self._held = self._held or [], None
            self._kept -= sum(len(packet) for _, packet in held)
            entries = [("from", source, 0.0, packet) for source, packet in held]
        else:
            self._held = None
            self._later.clear()
            self._kept = 0
            self._overtaken.clear()
            self._asked.clear()
            for rule in self.rules.values():
                rule.held.clear()
            entries = list(under_way)
        for _, port, seconds, packet in (entry for entry in entries if entry[0] == "to"):
            self._keep(now + seconds, port, packet)
        self.tick()  # before what came after it
        for _, port, _, packet in (entry for entry in entries if entry[0] == "from"):
            self.receive(port, [packet])
