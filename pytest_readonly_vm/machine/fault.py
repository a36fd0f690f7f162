"""Owns a fault of a private network as a test holds it: on, counted, ended, and whether it has met anything."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from pytest_readonly_vm.channels.history import HistoryEntry
from pytest_readonly_vm.errors import FaultUnused, SwitchDied
from pytest_readonly_vm.host.loop import LoopThread
from pytest_readonly_vm.machine.frame_match import FrameMatch, Match
from pytest_readonly_vm.machine.undoable import Undoable
from pytest_readonly_vm.network.faults import FaultCounts
from pytest_readonly_vm.network.frame import Frame
from pytest_readonly_vm.network.switch_process import Ask
from pytest_readonly_vm.network.talk import Talk
from pytest_readonly_vm.printable import count


class Fault(Undoable):
    """A fault that is on from the call that makes it until its context ends, `end` is called, or the test is over.

    If it has not done anything to any frame by then, `FaultUnused` is raised, unless the test has failed anyway.
    """

    def __init__(
        self,
        number: int,
        *,
        network: str,
        ask: Ask,
        answer: Callable[[int, bool], None],
        loop: LoopThread,
        match: Match | None,
        entry: HistoryEntry,
        hosts: Mapping[int, str],
        talk: Callable[[], Iterable[Talk]],
    ) -> None:
        """It is on from `begin` on, so that who hears questions of the switch's can know it by then.

        :param answer: tells the switch, on the loop, whether the fault is for a frame of which it has asked.
        :param hosts: names by the numbers of ports; it may grow.
        :param talk: who talked to whom on the network.
        """
        super().__init__(entry)
        self.number = number
        self._network = network
        self._ask = partial(ask, number=number)
        self._loop = loop
        self._hosts = hosts
        self._talk = talk
        self._counts = FaultCounts(0, {}, {})
        self._answer = answer
        self._match = FrameMatch(match, self._tell, label=f"{network}: {entry.what}") if match is not None else None

    def begin(self, wanted: Mapping[str, Any]) -> None:
        """Have it be on.

        :param wanted: what the switch is told of it.
        :raises SwitchDied: there is no switch any more.
        """
        try:
            self._loop.run(self._ask("fault", label=self.label, **wanted))
        except BaseException:
            self.abandon()
            raise

    @property
    def counts(self) -> FaultCounts:
        """What it has done so far, or until its end.

        :raises SwitchDied: it is on, and there is no switch any more.
        """
        if self.is_on:
            self._counts = self._told(self._loop.run(self._ask("counts")))
        return self._counts

    @property
    def hits(self) -> int:
        """How often it has done something to a frame; see `counts`."""
        return self.counts.hits

    def look(self) -> None:
        self._counts = self.counts

    def _told(self, answer: Mapping[str, Any]) -> FaultCounts:
        done = dict(answer["counts"])
        seen = done.pop("seen")
        ways = {(self._name(source), self._name(to)): hits for source, to, hits in answer["pairs"]}
        return FaultCounts(seen, done, ways)

    def _name(self, port: int) -> str:
        return self._hosts.get(port, "the network")

    # A function that says which frames it is for.

    def asked(self, number: int, pair: tuple[int, int], data: bytes) -> None:
        """The switch wants to know whether it is for a frame; on the loop."""
        if self._match is not None:
            source, to = map(self._name, pair)
            self._match.ask(number, Frame(data, source, to))

    def _tell(self, number: int, is_for: bool) -> None:
        self._loop.loop.call_soon_threadsafe(self._answer, number, is_for)

    # Its end.

    def _off(self) -> None:
        try:
            self._counts = self._told(self._loop.run(self._ask("mend")))
        finally:
            error = self._match.end() if self._match is not None else None
            if error is not None:
                raise error

    def _check(self) -> None:
        if self._counts.hits:
            return
        seen = count(self._counts.seen, "frame")
        passed = f"{seen} of those that it is for, and nothing done to any" if self._counts.seen else ""
        unused = FaultUnused(f"{self._network}: {self.label}: {passed or 'it has met no frame'}")
        sent = Counter[str]()
        with contextlib.suppress(SwitchDied):
            for one in self._talk():
                sent.update(one.protocols)
        sums = ", ".join(f"{name} {count}" for name, count in sent.most_common())
        unused.add_note(f"what was sent on this network during the test: {sums or 'nothing'}")
        raise unused

    def __str__(self) -> str:
        return f"{self.label}: {self._counts}"
