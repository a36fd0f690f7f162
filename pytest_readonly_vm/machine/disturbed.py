"""Owns what a test does to a private network: faults on ways between its machines, pulled cables."""

import abc
import itertools
import weakref
from collections.abc import Iterable, Sequence, Set
from typing import Any, cast

from pytest_readonly_vm.channels.history import HistoryEntry
from pytest_readonly_vm.errors import NetworkError
from pytest_readonly_vm.host.loop import LoopThread
from pytest_readonly_vm.image.output_guard import OutputGuard
from pytest_readonly_vm.machine.fault import Fault
from pytest_readonly_vm.machine.frame_match import Match
from pytest_readonly_vm.machine.link import Link
from pytest_readonly_vm.machine.member import Machine, Member
from pytest_readonly_vm.machine.observed import Observed
from pytest_readonly_vm.network import faults
from pytest_readonly_vm.network.faults import FaultSpec
from pytest_readonly_vm.network.switch_process import SwitchProcess

Who = Machine | str
"""A machine, or its name on the network."""


class Disturbed(Observed):
    """A network with which a test can do what it likes; what it has done is undone when the test is over."""

    def __init__(self, name: str, switch: SwitchProcess, *, loop: LoopThread, output_guard: OutputGuard) -> None:
        super().__init__(name, switch, loop=loop, output_guard=output_guard)
        self._faults: weakref.WeakValueDictionary[int, Fault] = weakref.WeakValueDictionary()
        self._links: weakref.WeakKeyDictionary[Member, Link] = weakref.WeakKeyDictionary()
        switch.on_asked = self._pass_on

    @abc.abstractmethod
    def member_of(self, machine: Who) -> Member:
        """:raises NetworkError: a machine that is not on this network."""

    # Faults.

    def faults(
        self,
        *,
        delay: float | str = 0,
        jitter: float | str = 0,
        loss: float | str = 0,
        duplicate: float | str = 0,
        reorder: float | str = 0,
        corrupt: float | str = 0,
        rate: float | str = 0,
        seed: int = 0,
        between: Sequence[Who] | None = None,
        source: Who | Sequence[Who] | None = None,
        to: Who | Sequence[Who] | None = None,
        protocol: str | None = None,
        port: int | None = None,
    ) -> Fault:
        """Have the network be a bad one from now on, until the end of the context that this gives, or of the test.

        Which frames are lost, doubled, overtaken or damaged is decided by the seed, and by each frame's place among
        those of its protocol on its way: the same sequence meets the same.

        :param delay: of each frame, in seconds, or as ``"80ms"``; by up to `jitter` more or less. Frames keep their
            order.
        :param loss: which part of the frames is lost, as ``0.02`` or ``"2%"``.
        :param duplicate: which part comes twice.
        :param reorder: which part is overtaken by the next frame on its way.
        :param corrupt: in which part one bit is another, behind the Ethernet header.
        :param rate: bits a second on each way, as ``1e6`` or ``"1Mbit"``; what waits longer than half a second is lost.
        :param between: the machines on whose ways to each other this is, both directions; by default on all ways.
        :param source: the machines from which frames come; with `to` this is for one direction.
        :param to: the machines to which they go.
        :param protocol: only ``tcp``, ``udp``, ``icmp``, ``icmp6``, ``igmp``, ``sctp``, ``arp``, ``ipv4`` or ``ipv6``.
        :param port: only this port of TCP, UDP or SCTP, on either side.
        :raises NetworkError: a value that cannot be, a machine that is not on this network, or ways between nobody.
        :raises SwitchDied: there is no switch any more.
        """
        spec = faults.disturbance(
            delay=delay,
            jitter=jitter,
            loss=loss,
            duplicate=duplicate,
            reorder=reorder,
            corrupt=corrupt,
            rate=rate,
            seed=seed,
            protocol=protocol,
            port=port,
        )
        ways, where = self._ways("faults", between, source, to)
        return self._fault("fault", f"{spec}{where}", spec, ways)

    def partition(self, *sides: Who | Sequence[Who], one_way: bool = False) -> Fault:
        """Have no frame pass between sides from now on, until the end of the context that this gives, or of the test.

        Machines on no side reach all.

        :param sides: two or more, each a machine or several.
        :param one_way: whether only frames from the first of two sides to the second are lost.
        :raises NetworkError: less than two sides, an empty one, a machine on two of them or not on this network.
        :raises SwitchDied: there is no switch any more.
        """
        groups = [self._found(side, "partition") for side in sides]
        if len(groups) < 2 or (one_way and len(groups) > 2):
            raise NetworkError(
                f"{self.label}: partition: {len(groups)} sides, and not two{'' if one_way else ' or more'}"
            )
        everybody = [member for group in groups for member in group]
        if twice := next((one for one in everybody if everybody.count(one) > 1), None):
            raise NetworkError(f"{self.label}: partition: {twice.host} is on two sides")
        pairs = [
            (one.port, other.port)
            for first, second in itertools.permutations(range(len(groups)), 2)
            for one in groups[first]
            for other in groups[second]
            if not one_way or first == 0
        ]
        between = (" to " if one_way else " | ").join(_names(group) for group in groups)
        return self._fault("partition", f"partition {between}", FaultSpec(cuts=True), {"pairs": pairs})

    def drop(
        self,
        *,
        nth: int | Iterable[int] = (),
        match: Match | None = None,
        between: Sequence[Who] | None = None,
        source: Who | Sequence[Who] | None = None,
        to: Who | Sequence[Who] | None = None,
        protocol: str | None = None,
        port: int | None = None,
    ) -> Fault:
        """Have certain frames be lost from now on, until the end of the context that this gives, or of the test.

        :param nth: which ones of those that are meant, counted from 1; by default all of them.
        :param match: a function that says of a `Frame` whether it is meant. It runs on a thread of its own, while
            the frame waits; what it raises is raised at the end.
        :param between: as of `faults`, and so are the other parameters.
        :raises NetworkError: as `faults`.
        :raises SwitchDied: there is no switch any more.
        """
        spec = faults.loss(nth=nth, protocol=protocol, port=port, asks=match is not None)
        ways, where = self._ways("drop", between, source, to)
        such = f" for which {getattr(match, '__name__', 'a function')} is true" if match is not None else ""
        what = ", ".join(filter(None, ("drop", str(spec))))
        return self._fault("fault", f"{what}{such}{where}", spec, ways, match)

    def _fault(self, kind: str, label: str, spec: FaultSpec, ways: dict[str, Any], match: Match | None = None) -> Fault:
        number = next(self._numbers)
        fault = Fault(
            number,
            network=self.label,
            ask=self._switch.ask,
            answer=self._switch.answer,
            loop=self._loop,
            match=match,
            entry=self.history.note(kind, label),
            hosts=self._hosts,
            talk=self.talk,
        )
        self._faults[number] = fault
        fault.begin({**spec.message(), **ways})
        return self.note_done(fault)

    def _pass_on(self, question: int, number: int, pair: tuple[int, int], data: bytes) -> None:
        if (fault := self._faults.get(number)) is not None:
            fault.asked(question, pair, data)

    def _ways(
        self,
        what: str,
        between: Sequence[Who] | None,
        source: Who | Sequence[Who] | None,
        to: Who | Sequence[Who] | None,
    ) -> tuple[dict[str, list[Any]], str]:
        """The ways that are meant, as a switch is told, and for people."""
        if between is not None:
            if source is not None or to is not None:
                raise NetworkError(f"{self.label}: {what}: between= is for both directions, source= and to= for one")
            members = self._found(between, f"{what}: between=")
            pairs = [(one.port, other.port) for one, other in itertools.permutations(members, 2)]
            return {"pairs": self._some(pairs, what)}, f" between {_names(members)}"
        sources = None if source is None else self._found(source, f"{what}: source=")
        targets = None if to is None else self._found(to, f"{what}: to=")
        words = f"{f' from {_names(sources)}' if sources else ''}{f' to {_names(targets)}' if targets else ''}"
        if sources and targets:
            pairs = [(one.port, other.port) for one in sources for other in targets if one is not other]
            return {"pairs": self._some(pairs, what)}, words
        if sources:
            return {"sources": [one.port for one in sources]}, words
        return {"targets": [one.port for one in targets]} if targets else {}, words

    def _some(self, pairs: list[tuple[int, int]], what: str) -> list[tuple[int, int]]:
        if not pairs:
            raise NetworkError(f"{self.label}: {what}: there is no way from a machine to itself; name two of them")
        return pairs

    def _found(self, who: Who | Sequence[Who], what: str) -> list[Member]:
        machines: list[Who] = [*cast(Sequence[Who], who)] if _is_several(who) else [cast(Who, who)]
        if not machines:
            raise NetworkError(f"{self.label}: {what}: no machine")
        return list(dict.fromkeys(self.member_of(machine) for machine in machines))

    # Cables.

    def link(self, machine: Who) -> Link:
        """The cable of a machine's card, to be pulled.

        :raises NetworkError: it is not on this network, or not ready yet.
        """
        member = self.member_of(machine)
        if (found := member.machine) is None:
            raise NetworkError(f"{self.label}: {member.host} is not ready yet")
        card = next(card for card in found.instance.cards if card.number == member.card)
        if (link := self._links.get(member)) is None:

            def begin() -> HistoryEntry:
                return self.history.note("cable", f"cable of {member.host} pulled")

            link = self._links[member] = Link(found, card, self._loop, begin, self.note_done)
        return link


def _is_several(who: object) -> bool:
    return isinstance(who, Sequence | Set) and not isinstance(who, str)


def _names(members: Iterable[Member]) -> str:
    return ", ".join(member.host for member in members)
