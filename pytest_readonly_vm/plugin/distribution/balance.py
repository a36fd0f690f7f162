"""Owns how tests are shared out: evenly, with those of a kind in few places, as each place has to make its template.

Pure, and in whole microseconds, so that every process and computer that is asked the same finds the same.

A kind is in as many parts as it takes for none of them to be longer than a fair share by more than a tenth. It gets
another only where the longest share becomes shorter by a tenth: one part more is one boot more.
"""

import heapq
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

_GAIN = 0.9
"""A kind is in one more part if the longest share is no more than so much of what it was."""


@dataclass(frozen=True, slots=True)
class Unit:
    """Tests that stay together."""

    name: str
    """By which units are told apart and put in order."""
    kind: str | None
    """What its tests start from, or None if they want no machine. It may have paths in it, which are others elsewhere:
    units are told apart by it, and never put in order."""
    cost: int
    """Microseconds, without what it takes to make the template."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one place has to do."""

    units: tuple[Unit, ...]
    cost: int
    """Microseconds, with those for the templates of its kinds."""

    @property
    def kinds(self) -> set[str]:
        return {unit.kind for unit in self.units if unit.kind is not None}


def shared_out(units: Iterable[Unit], templates: Mapping[str, int], places: int) -> list[Share]:
    """What each of so many places has to do; every unit is in one of them.

    :param templates: for each kind the microseconds that it takes to make its template.
    """
    in_order = sorted(units, key=lambda unit: (-unit.cost, unit.name))
    kinds: defaultdict[str | None, list[Unit]] = defaultdict(list)
    for unit in in_order:
        kinds[unit.kind].append(unit)
    alone = kinds.pop(None, [])
    first = {kind: min(unit.name for unit in some) for kind, some in kinds.items()}
    plan = _Plan({k: kinds[k] for k in sorted(filter(None, kinds), key=first.__getitem__)}, alone, templates, places)
    parts = plan.fewest()
    best = plan.packed(parts)
    while True:
        longest = max(share.cost for share in best)
        tried = [(one, plan.packed(one)) for one in plan.further(parts, best)]
        found, shares = min(tried, key=lambda one: max(share.cost for share in one[1]), default=(parts, best))
        if max(share.cost for share in shares) > longest * _GAIN or found == parts:
            return best
        parts, best = found, shares


class _Plan:
    """The units by kinds, those of the highest cost first."""

    def __init__(
        self, kinds: Mapping[str, Sequence[Unit]], alone: Sequence[Unit], templates: Mapping[str, int], places: int
    ) -> None:
        self._kinds = kinds
        self._alone = alone
        self._templates = templates
        self._places = places
        self._costs = {kind: sum(unit.cost for unit in units) for kind, units in kinds.items()}
        self._divided: dict[tuple[str, int], list[list[Unit]]] = {}

    def further(self, parts: Mapping[str, int], shares: Sequence[Share]) -> list[dict[str, int]]:
        """Plans that may be better: one kind of the longest share in one part more, or all kinds of all long ones."""
        longest = max(shares, key=lambda share: share.cost)
        crowded = {kind for share in shares if share.cost >= longest.cost * _GAIN for kind in share.kinds}
        more = {kind: min(parts[kind] + 1, self._most(kind)) for kind in crowded}
        single = [{**parts, kind: more[kind]} for kind in parts if kind in longest.kinds and more[kind] > parts[kind]]
        return [*single, {**parts, **more}]

    def _most(self, kind: str) -> int:
        """The parts that a kind can be in."""
        return min(self._places, len(self._kinds[kind]))

    def fewest(self) -> dict[str, int]:
        """For each kind the parts that it takes for none to be longer than a fair share, which has the templates in it.

        The more parts, the more there is to do in all; so the share is looked for, between what it is at least and
        what is one place's work.
        """
        alone = sum(unit.cost for unit in self._alone)
        longest = alone + sum(self._costs[kind] + self._template(kind) for kind in self._kinds)
        # No share is less than a template and the longest of its tests.
        low = max((self._template(kind) + units[0].cost for kind, units in self._kinds.items()), default=0)
        high = max(longest, low)
        while high - low > high // 1000 + 1:
            share = (low + high) // 2
            work = alone + sum(
                self._costs[kind] + number * self._template(kind) for kind, number in self._parts(share).items()
            )
            low, high = (low, share) if work <= share * self._places else (share, high)
        return self._parts(int(high / _GAIN))

    def _parts(self, share: int) -> dict[str, int]:
        """The parts of each kind, if none is to be longer than a share, which has room for the longest of its tests."""
        rooms = {kind: max(share - self._template(kind), 1) for kind in self._kinds}
        return {kind: max(min(-(-self._costs[kind] // room), self._most(kind)), 1) for kind, room in rooms.items()}

    def _template(self, kind: str) -> int:
        return self._templates.get(kind, 0)

    def packed(self, parts: Mapping[str, int]) -> list[Share]:
        """All shares, with each kind in so many parts or fewer: the largest first, each to who has the least to do."""
        pieces = [piece for kind, number in parts.items() for piece in self._pieces(kind, number)]
        pieces.sort(key=lambda piece: (-sum(unit.cost for unit in piece), piece[0].name))
        places: list[list[Unit]] = [[] for _ in range(self._places)]
        costs = [0] * self._places
        has: list[set[str]] = [set() for _ in range(self._places)]
        for piece in pieces:
            kind = piece[0].kind
            assert kind is not None
            work = sum(unit.cost for unit in piece)
            template = self._template(kind)
            after = [cost + work + (0 if kind in has[n] else template) for n, cost in enumerate(costs)]
            place = min(range(self._places), key=lambda n: (after[n], len(places[n]), n))
            costs[place] = after[place]
            has[place].add(kind)
            places[place] += piece
        waiting = [(cost, len(places[n]), n) for n, cost in enumerate(costs)]
        heapq.heapify(waiting)
        for unit in self._alone:
            cost, number, place = heapq.heappop(waiting)
            places[place].append(unit)
            costs[place] = cost + unit.cost
            heapq.heappush(waiting, (costs[place], number + 1, place))
        return [Share(tuple(units), cost) for units, cost in zip(places, costs, strict=True)]

    def _pieces(self, kind: str, number: int) -> list[list[Unit]]:
        """The units of a kind in so many parts of about the same cost."""
        if (kind, number) not in self._divided:
            parts: list[list[Unit]] = [[] for _ in range(number)]
            waiting = [(0, 0, n) for n in range(number)]
            for unit in self._kinds[kind]:
                cost, units, place = heapq.heappop(waiting)
                parts[place].append(unit)
                heapq.heappush(waiting, (cost + unit.cost, units + 1, place))
            self._divided[kind, number] = [part for part in parts if part]
        return self._divided[kind, number]
