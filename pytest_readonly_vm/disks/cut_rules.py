"""Owns the rules of what a disk may hold when its power is cut, and the names of such states. Pure.

Power goes at a moment between two entries of the log. What was flushed before it is on the disk, and of the writes
since then any are, each whole or, if it has several sectors, only the first ones of it. A write that the guest wanted
to be there at once (FUA) is there.

A name is made of a log's numbers only, so that it means the same state of the same log each time::

    flush:17                what the 17th flush has made sure of, and nothing of later: cut before the next one is done
    write:230               the first 230 writes, all of them; write:230/3: of the last of them only three sectors
    random:7:12             the 12th state by the seed 7; random:7:12:torn, where writes may be torn
    at:812-790..795,801/3   cut after 812 entries of the log, of which 790 to 795 are lost and 801 but for 3 sectors
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from pytest_readonly_vm.disks.write_log import FUA, WriteLog

_FORM = re.compile(
    r"flush:(?P<flush>\d+)|write:(?P<write>\d+)(?:/(?P<sectors>\d+))?"
    r"|random:(?P<seed>-?\d+):(?P<number>\d+)(?P<torn>:torn)?|at:(?P<at>\d+)(?:-(?P<lost>[\d.,/]+))?",
    re.ASCII,
)
_LOST = re.compile(r"(\d+)(?:\.\.(\d+)|/(\d+))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Survivors:
    """What of a log is on the disk after a cut."""

    moment: int
    """Before which entry power went."""
    sure: int
    """Before which entry all is there."""
    lost: Mapping[int, int] = field(default_factory=dict)
    """Of those between the two that are not there: how many of their first sectors are nevertheless."""

    def kept(self, log: WriteLog) -> Iterator[tuple[int, int | None]]:
        """The writes from `sure` on that are there, and of those that are torn, how many sectors."""
        for entry in range(self.sure, self.moment):
            if log.is_write(entry) and (left := self.lost.get(entry)) != 0:
                yield entry, left


class CutRules:
    """The states that a disk may have after a cut, by a log."""

    def __init__(self, log: WriteLog, marks: "frozenset[int] | set[int]" = frozenset()) -> None:
        """:param marks: the numbers of entries that are marks of the guest's, and no writes."""
        self._log = log
        self.writes: list[int] = [entry for entry in range(len(log)) if log.is_write(entry) and entry not in marks]
        """The numbers of the entries that are writes."""

    @property
    def flushes(self) -> Sequence[int]:
        """The numbers of the entries that are flushes."""
        return self._log.flushes

    def sure(self, moment: int) -> int:
        """Before which entry all is flushed by then."""
        before = bisect_left(self._log.flushes, moment)
        return self._log.flushes[before - 1] + 1 if before else 0

    def unsure(self, moment: int) -> list[int]:
        """The writes by then of which each may be lost."""
        first, end = bisect_left(self.writes, self.sure(moment)), bisect_left(self.writes, moment)
        return [entry for entry in self.writes[first:end] if not self._log.flags[entry] & FUA]

    def state(self, name: str) -> Survivors:
        """The one of a name.

        :raises ValueError: there is no such state of this log; the text says why.
        """
        form = _FORM.fullmatch(name)
        if form is None:
            raise ValueError("that is none of the forms flush:N, write:N, random:SEED:N and at:N-LOST")
        if form["flush"] is not None:
            return self._flush(int(form["flush"]))
        if form["write"] is not None:
            return self._write(int(form["write"]), form["sectors"])
        if form["seed"] is not None:
            return self._random(int(form["seed"]), int(form["number"]), torn=bool(form["torn"]))
        return self._explicit(int(form["at"]), form["lost"] or "")

    def _flush(self, number: int) -> Survivors:
        flushes = self._log.flushes
        if number > len(flushes):
            raise ValueError(f"the log has {len(flushes)} flushes")
        moment = flushes[number] if number < len(flushes) else len(self._log)
        return Survivors(moment, self.sure(moment), dict.fromkeys(self.unsure(moment), 0))

    def _write(self, number: int, sectors: str | None) -> Survivors:
        if number > len(self.writes):
            raise ValueError(f"the log has {len(self.writes)} writes")
        # All are there, so power may as well have gone later, but for the next write.
        moment = self.writes[number] if number < len(self.writes) else len(self._log)
        if sectors is None:
            return Survivors(moment, moment)
        if not number:
            raise ValueError("there is no write to be torn")
        entry = self.writes[number - 1]
        if not 0 < int(sectors) < self._log.count[entry]:
            raise ValueError(f"the write {number} has {self._log.count[entry]} sectors")
        if self._log.flags[entry] & FUA:
            raise ValueError(f"the write {number} was there when it was done")
        # What is torn was not flushed.
        moment = min(moment, self._flush_after(entry))
        return Survivors(moment, entry, {entry: int(sectors)})

    def _flush_after(self, entry: int) -> int:
        flushes = self._log.flushes
        following = bisect_right(flushes, entry)
        return flushes[following] if following < len(flushes) else len(self._log)

    def _random(self, seed: int, number: int, *, torn: bool) -> Survivors:
        random = Random(f"{seed}:{number}:{torn}")
        # As of write:N, but of what was not flushed anything may be lost.
        write = random.randint(0, len(self.writes))
        moment = self.writes[write] if write < len(self.writes) else len(self._log)
        return self.random_at(moment, random, torn=torn)

    def random_at(self, moment: int, random: Random, *, torn: bool) -> Survivors:
        """Of what was not flushed by a moment a random part."""
        share = random.random()
        lost: dict[int, int] = {}
        for entry in self.unsure(moment):
            if random.random() < share:
                lost[entry] = 0
            elif torn and self._log.count[entry] > 1 and random.random() < 0.5:
                lost[entry] = random.randrange(1, self._log.count[entry])
        return Survivors(moment, self.sure(moment), lost)

    def _explicit(self, moment: int, words: str) -> Survivors:
        if moment > len(self._log):
            raise ValueError(f"the log has {len(self._log)} entries")
        unsure = self.unsure(moment)
        lost: dict[int, int] = {}
        for word in filter(None, words.split(",")):
            form = _LOST.fullmatch(word)
            if form is None:
                raise ValueError(f"{word!r} says nothing of what is lost; 790, 790..795 and 801/3 do")
            first, last = int(form[1]), int(form[2] or form[1])
            begin, end = bisect_left(unsure, first), bisect_right(unsure, last)
            if begin == end or unsure[begin] != first or unsure[end - 1] != last:
                raise ValueError(f"{word}: no writes that can be lost at that moment")
            lost |= dict.fromkeys(unsure[begin:end], int(form[3] or 0))
            if form[3] and not 0 < int(form[3]) < self._log.count[first]:
                raise ValueError(f"{word}: that write has {self._log.count[first]} sectors")
        return Survivors(moment, self.sure(moment), lost)

    def name(self, state: Survivors) -> str:
        """A name of a state, of the form that can say each."""
        unsure = self.unsure(state.moment)
        words, position = [], 0
        while position < len(unsure):
            entry = unsure[position]
            left = state.lost.get(entry)
            last = position
            if left == 0:
                while last + 1 < len(unsure) and state.lost.get(unsure[last + 1]) == 0:
                    last += 1
                words.append(f"{entry}..{unsure[last]}" if last > position else str(entry))
            elif left is not None:
                words.append(f"{entry}/{left}")
            position = last + 1
        return f"at:{state.moment}" + (f"-{','.join(words)}" if words else "")

    def names(self, at: str, *, limit: int | None, seed: int, torn: bool) -> Iterator[str]:
        """Names of states, in the order of the log where there is one.

        :param at: ``flush``, ``write`` or ``random``.
        :param limit: at most so many moments, from the first to the last at equal distances.
        :raises ValueError: something else is asked for.
        """
        if at not in ("flush", "write", "random"):
            raise ValueError(f"at={at!r}: none of flush, write, random")
        if limit is not None and limit < 1:
            raise ValueError(f"limit={limit}: less than one")
        return self._names(at, limit=limit, seed=seed, torn=torn)

    def _names(self, at: str, *, limit: int | None, seed: int, torn: bool) -> Iterator[str]:
        if at == "random":
            yield from (f"random:{seed}:{number}{':torn' * torn}" for number in range(1, (limit or 100) + 1))
            return
        last = len(self._log.flushes) if at == "flush" else len(self.writes)
        for number in _spread(last, limit):
            yield f"{at}:{number}"
            if torn and (found := self._tearable(at, number)) is not None:
                sectors = self._log.count[self.writes[found - 1]]
                yield f"write:{found}/{Random(f'{seed}:{found}').randrange(1, sectors)}"

    def _tearable(self, at: str, number: int) -> int | None:
        """The write that is torn beside a state: the last one before that moment that can be, and was not flushed."""
        moment = self._flush(number).moment if at == "flush" else self._write(number, None).moment
        candidates = self.unsure(moment) if at == "flush" else self.writes[max(number - 1, 0) : number]
        for entry in reversed(candidates):
            if self._log.count[entry] > 1 and not self._log.flags[entry] & FUA:
                return bisect_left(self.writes, entry) + 1
        return None


def _spread(last: int, limit: int | None) -> Iterator[int]:
    if limit is None or limit > last:
        yield from range(last + 1)
    elif limit == 1:
        yield last
    else:
        yield from sorted({round(number * last / (limit - 1)) for number in range(limit)})
