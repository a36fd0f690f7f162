"""Owns one fault of a network: which frames it is for, what it does to them, how many it has met.

What happens to a frame is decided by its place in the sequence of frames of its protocol from one card to another, and
by the seed; so the same sequence meets the same, whatever else is on the network, and however fast it goes. Cards count
by the names of their machines there: in which order they were plugged in, does not matter.
"""

import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from pytest_readonly_vm.network.switch.packet import HEAD, NAMED, SMALLEST, Kind

_QUEUE = 0.5
"""Seconds of a limited rate that may wait; what is more is dropped, as by a router with a queue of that size."""
_LEAST_QUEUE = 64 << 10
Pair = tuple[int, int]
"""The numbers of two ports, the way from the first to the second."""


class Timed(NamedTuple):
    """A packet on its way, and when it is to be given to its card, in seconds of the monotonic clock."""

    due: float
    packet: bytes
    origin: bytes
    """As it came."""


class Rule:
    """A fault that is on."""

    def __init__(self, number: int, wanted: dict[str, Any], name_of: Callable[[int], str]) -> None:
        """`wanted` is what `network.faults.FaultSpec` and `Ways` say; `name_of` tells the name of a port."""
        self.number = number
        self.label: str = wanted["label"]
        self.asks: bool = wanted.get("asks", False)
        """Whether a function of the test's decides which frames it is for."""
        self.counts: dict[str, int] = {"seen": 0}
        """Frames that it was for, and what it has done to them, how often."""
        self.pairs_hit: dict[Pair, int] = {}
        """How often it has done something, by the way that frames had before them."""
        self.done: list[str] = []
        """What it did to the frame that it met last."""
        self.held: dict[Pair, Timed] = {}
        """Those that wait until the next one has passed them."""
        self._pairs = {(a, b) for a, b in wanted["pairs"]} if "pairs" in wanted else None
        self._sources = frozenset(wanted["sources"]) if "sources" in wanted else None
        self._targets = frozenset(wanted["targets"]) if "targets" in wanted else None
        self._name_of = name_of
        self._protocol: str | None = wanted.get("protocol")
        self._port: int | None = wanted.get("port")
        self._nth = frozenset(wanted["nth"]) if wanted.get("nth") else None
        self._cuts: bool = wanted.get("cuts", False)
        self._seed = wanted.get("seed", 0)
        self._delay, self._jitter = wanted.get("delay", 0.0), wanted.get("jitter", 0.0)
        self._loss, self._duplicate = wanted.get("loss", 0.0), wanted.get("duplicate", 0.0)
        self._reorder, self._corrupt = wanted.get("reorder", 0.0), wanted.get("corrupt", 0.0)
        self._rate: float = wanted.get("rate", 0.0)
        self._numbers: dict[tuple[Pair, str], random.Random] = {}
        self._last_due: dict[Pair, float] = {}
        self._busy_until: dict[Pair, float] = {}
        self._counted: bytes | None = None

    def concerns(self, pair: Pair, kind: Kind) -> bool:
        """Whether it is for frames of this kind on this way; what a function says of them comes on top."""
        return (
            (self._pairs is None or pair in self._pairs)
            and (self._sources is None or pair[0] in self._sources)
            and (self._targets is None or pair[1] in self._targets)
            and (self._protocol is None or self._protocol in (kind.protocol, kind.family))
            and (self._port is None or self._port in (kind.source_port, kind.destination_port))
        )

    def meet(self, pair: Pair, kind: Kind, timed: Timed) -> list[Timed]:
        """What becomes of a packet: none, it, later, damaged, or several."""
        now, packet, origin = timed
        self.done = []
        if self._counted is not origin:  # one that goes to several cards is one
            self._counted = origin
            self.counts["seen"] += 1
        if self._nth is not None and self.counts["seen"] not in self._nth:
            return [timed]
        if self._cuts:
            return self._hit("lost", pair)
        draw = self._draws(pair, kind)
        # As many numbers for each frame, whatever becomes of it: the next one's are the same then.
        lost, doubled, overtaken, damaged, late, where = (next(draw) for _ in range(6))
        if lost < self._loss:
            return self._hit("lost", pair)
        if damaged < self._corrupt:
            packet = _with_another_bit(packet, where)
            self._hit("corrupted", pair)
        due = now
        if self._rate:
            start = max(now, self._busy_until.get(pair, 0.0))
            if start - now > max(_QUEUE, 8 * _LEAST_QUEUE / self._rate):
                return self._hit("overflowed", pair)
            due = self._busy_until[pair] = start + 8 * (len(packet) - HEAD) / self._rate
            self._hit("limited", pair)
        if self._delay or self._jitter:
            due += max(self._delay + (2 * late - 1) * self._jitter, 0.0)
            due = max(due, self._last_due.get(pair, 0.0))  # the order of frames is kept but where it is not to be
            self._last_due[pair] = due
            self._hit("delayed", pair)
        copies = [Timed(due, packet, origin)]
        if doubled < self._duplicate:
            copies *= 2
            self._hit("duplicated", pair)
        if (waiting := self.held.pop(pair, None)) is not None:
            copies.append(waiting._replace(due=due))
            self._hit("reordered", pair)
        elif overtaken < self._reorder:
            self.held[pair] = copies.pop()
        return copies

    def release(self, pair: Pair, waiting: Timed) -> bool:
        """Whether a packet has waited in vain for another to pass it; it does not wait any more."""
        is_waiting = self.held.get(pair) is waiting
        if is_waiting:
            del self.held[pair]
        return is_waiting

    def _hit(self, what: str, pair: Pair) -> list[Timed]:
        self.done.append(what)
        self.counts[what] = self.counts.get(what, 0) + 1
        self.pairs_hit[pair] = self.pairs_hit.get(pair, 0) + 1
        return []

    def _draws(self, pair: Pair, kind: Kind) -> Iterator[float]:
        protocol = kind.protocol if kind.protocol in NAMED else "other"
        stream = (pair, protocol)
        numbers = self._numbers.get(stream)
        if numbers is None:
            source, target = map(self._name_of, pair)
            numbers = self._numbers[stream] = random.Random(f"{self._seed} {source} {target} {protocol}")
        return iter(numbers.random, None)


def _with_another_bit(packet: bytes, where: float) -> bytes:
    """Behind its addresses and type: one that is addressed to nobody would be lost, and not be damaged."""
    damaged, first = bytearray(packet), HEAD + SMALLEST
    if bits := 8 * (len(damaged) - first):
        bit = int(where * bits)
        damaged[first + bit // 8] ^= 1 << bit % 8
    return bytes(damaged)
