"""Owns which tests are run where: one shard of several, and the groups by which xdist gives them to its workers.

Both are decided by what is left of the collection when everybody else has chosen, and in no order of it: whatever
shuffles tests, the shards are the same. Tests are never put in another order, as suites rest on theirs.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from statistics import mean
from typing import Any

import pytest

from pytest_readonly_vm.plugin.distribution.balance import Share, Unit, shared_out
from pytest_readonly_vm.plugin.distribution.kinds import kind_of, name_of_kind, shared_by, wishes
from pytest_readonly_vm.plugin.distribution.timings import Timings, plain_id, timings_of
from pytest_readonly_vm.plugin.given import given_settings
from pytest_readonly_vm.plugin.options import told_by_controller
from pytest_readonly_vm.printable import count

_KEY = "readonly_vm_shard"
_GROUP = re.compile(r"@vm:\d+(\.\d+)?(?='|$)")
"""What is appended to a node id while xdist reads it."""

_NODE_IDS = ("_id", "_nodeid")
"""The attribute that has a node id: pytest 9.2 has another than before, of which xdist 3.8 does not know."""

_USUAL_TEST, _USUAL_TEMPLATE = 1.0, 10.0
"""Seconds of a test of which nothing is known, and how many times a test's it takes to make a template."""


class Shards:
    """Lives in each process that collects tests, and in xdist's controller."""

    def __init__(self, config: pytest.Config) -> None:
        given = given_settings(config).get("shard")
        self._config = config
        self._shard = str(told_by_controller(config, "shard") or (given.value if given else "1/1"))
        self._number, self._shards = map(int, self._shard.split("/"))
        self._told: dict[str, Any] = {}
        """How many tests there were before, and what is said of the shard."""

    @property
    def _is_one_of_several(self) -> bool:
        return self._shards > 1

    # A shard.

    def pytest_sessionstart(self) -> None:
        """What failed is known of each shard apart, and is gone when it passes: so no two would share out the same.

        :raises pytest.UsageError: tests are to be chosen by that.
        """
        cache = getattr(self._config, "cache", None)
        if not self._is_one_of_several or cache is None or hasattr(self._config, "workerinput"):
            return
        for name, key in (("lf", "cache/lastfailed"), ("stepwise", "cache/stepwise")):
            if self._config.getoption(name, False) and cache.get(key, None):
                raise pytest.UsageError(
                    f"--{name} runs what failed here, which is not to be shared out once more, as other shards know "
                    f"of other failures; leave out --vm-shard={self._shard}"
                )

    def pytest_report_header(self) -> list[str]:
        if not self._is_one_of_several:
            return []
        known = len(timings_of(self._config).tests)
        by = f"the durations of {count(known, 'test')}" if known else "the number of tests, as no durations are known"
        return [f"vm: shard {self._number} of {self._shards}, balanced by {by}"]

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> Generator[None, object, object]:
        result = yield  # -k, --lf and the like, which choose first
        if self._is_one_of_several:
            collection = _Collection.of(items, timings_of(self._config), with_session=True)
            shares = collection.shared_out(self._shards)
            place = {unit.name: number for number, share in enumerate(shares, 1) for unit in share.units}
            places = [place[unit.name] for unit in collection.units_of_items]
            chosen = [item for item, number in zip(items, places, strict=True) if number == self._number]
            others = [item for item, number in zip(items, places, strict=True) if number != self._number]
            plan = _digest(sorted(zip(map(plain_id, items), places, strict=True)))
            self._told = {
                "all": len(items),
                "line": self._line(collection, shares[self._number - 1], len(chosen), plan),
                "identity": {"number": self._number, "of": self._shards, "plan": plan},
            }
            items[:] = chosen
            if others:
                self._config.hook.pytest_deselected(items=others)
        return result

    @property
    def identity(self) -> dict[str, Any] | None:
        """Which shard it is, and a digest of what all of them are to run: the same for those that belong together."""
        return self._told.get("identity")

    def _line(self, collection: "_Collection", share: Share, tests: int, plan: str) -> str:
        kinds = len({unit.kind for unit in collection.units_of_items if unit.kind})
        of = f"{tests} of {count(len(collection.units_of_items), 'test')}"
        machines = f", {len(share.kinds)} of {count(kinds, 'kind')} of machines" if kinds else ""
        known = f", about {share.cost / 1e6:.0f} s" if collection.are_known else ""
        return f"vm: shard {self._number}/{self._shards}: {of}{machines}{known}; plan {plan}"

    def pytest_report_collectionfinish(self) -> list[str]:
        return [self._told["line"]] if self._told else []

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Of xdist: a worker may be on a computer with another environment."""
        node.workerinput[_KEY] = self._shard

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """A worker of xdist has collected, and the controller has not."""
        self._told = self._told or (getattr(node, "workeroutput", None) or {}).get(_KEY, {})

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Where there are more shards than work, one without a test has not failed."""
        if (output := getattr(self._config, "workeroutput", None)) is not None:
            output[_KEY] = self._told
        if self._told.get("all") and session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
            session.exitstatus = pytest.ExitCode.OK

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self._told and terminalreporter.config.getoption("tx", None):
            terminalreporter.write_line(self._told["line"])

    # Groups.

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_finish(self, session: pytest.Session) -> Generator[None, object, object]:
        """With ``--dist=loadgroup`` a worker tells the controller each test's group by the end of its node id.

        So it has one for this moment alone, and reports, ``--lf`` and names of folders have the plain ids. That there
        is nothing else by which xdist can be told is why an attribute of pytest's own is set.
        """
        workers = int(getattr(self._config, "workerinput", {}).get("workercount", 1))
        if not getattr(self._config.option, "loadgroup", False):
            return (yield)
        groups = _groups(session.items, timings_of(self._config), workers)
        attributes = [
            (item, name, getattr(item, name)) for item, _ in groups for name in _NODE_IDS if hasattr(item, name)
        ]
        nodeids = [(item, f"{item.nodeid}@{group}") for item, group in groups]
        for (item, nodeid), (_, name, _) in zip(nodeids, attributes, strict=True):
            setattr(item, name, nodeid)
        try:
            return (yield)
        finally:
            for item, name, plain in attributes:
                setattr(item, name, plain)


def _digest(plan: list[tuple[str, int]]) -> str:
    return hashlib.sha256(repr(plan).encode(errors="backslashreplace")).hexdigest()[:8]


def without_group(text: str) -> str:
    """A node id, or a sentence that quotes it, without the group that it had for xdist."""
    return _GROUP.sub("", text)


@dataclass(frozen=True, slots=True)
class _Collection:
    """All tests that may be run, and what must stay together."""

    units_of_items: Sequence[Unit]
    """To which unit each test belongs."""
    templates: Mapping[str, int]
    """Microseconds to make those of each kind."""
    are_known: bool
    """Whether the durations are recorded ones."""

    @classmethod
    def of(cls, items: Sequence[pytest.Item], timings: Timings, *, with_session: bool) -> "_Collection":
        wished = [wishes(item) for item in items]
        names = [plain_id(item) for item in items]
        kinds = [kind_of(some) for some in wished]
        short = {kind: name_of_kind(some) for kind, some in zip(kinds, wished, strict=True) if kind}
        heads = _together(
            [{name, *shared_by(some, with_session=with_session)} for name, some in zip(names, wished, strict=True)]
        )
        seconds = _seconds(names, kinds, timings)
        usual = _USUAL_TEMPLATE * (mean(seconds) if seconds else _USUAL_TEST)
        known = [timings.templates[name] for name in short.values() if name in timings.templates]
        usual = mean(known) if known else usual
        members: dict[int, list[int]] = {}
        for number, head in enumerate(heads):
            members.setdefault(head, []).append(number)
        units = {}
        for head, numbers in members.items():
            by_name = sorted(numbers, key=names.__getitem__)  # and not as tests or kinds happen to come
            own = Counter(kinds[number] for number in by_name if kinds[number])
            units[head] = Unit(
                names[by_name[0]],
                max(own, key=own.__getitem__, default=None),
                max(round(fsum(seconds[number] for number in numbers) * 1e6), 1),
            )
        return cls(
            [units[head] for head in heads],
            {kind: round(timings.templates.get(name, usual) * 1e6) for kind, name in short.items()},
            any(name in timings.tests for name in names),
        )

    def shared_out(self, places: int) -> list[Share]:
        return shared_out({unit.name: unit for unit in self.units_of_items}.values(), self.templates, places)


def _seconds(names: Sequence[str], kinds: Sequence[str | None], timings: Timings) -> list[float]:
    """How long each test may take: as it did, else as others of its kind did, or others at all."""
    known: dict[str | None, list[float]] = {}
    for name, kind in zip(names, kinds, strict=True):
        if name in timings.tests:
            known.setdefault(kind, []).append(timings.tests[name])
    of_kind = {kind: mean(some) for kind, some in known.items()}
    usual = mean(seconds for some in known.values() for seconds in some) if known else _USUAL_TEST
    return [timings.tests.get(name, of_kind.get(kind, usual)) for name, kind in zip(names, kinds, strict=True)]


def _together(keys: Sequence[set[str]]) -> list[int]:
    """For each set of keys the number of the first that hangs together with it, by keys in common."""
    heads = list(range(len(keys)))

    def head_of(number: int) -> int:
        while heads[number] != number:
            heads[number] = heads[heads[number]]
            number = heads[number]
        return number

    first: dict[str, int] = {}
    for number, some in enumerate(keys):
        for key in some:
            one, other = sorted((head_of(first.setdefault(key, number)), head_of(number)))
            heads[other] = one
    return [head_of(number) for number in range(len(keys))]


def _groups(items: Sequence[pytest.Item], timings: Timings, workers: int) -> list[tuple[pytest.Item, str]]:
    """The tests that are given to workers by kind, each with the name of its group; not those that the user groups."""
    collection = _Collection.of(items, timings, with_session=False)
    shares = collection.shared_out(workers)
    place = {unit.name: number for number, share in enumerate(shares) for unit in share.units}
    numbers: dict[str, int] = {}
    for unit in collection.units_of_items:
        if unit.kind is not None:
            numbers.setdefault(unit.kind, len(numbers) + 1)
    split = {kind for kind in numbers if sum(kind in share.kinds for share in shares) > 1}
    found = []
    for item, unit in zip(items, collection.units_of_items, strict=True):
        if unit.kind is None or item.get_closest_marker("xdist_group") is not None:
            continue
        part = f".{place[unit.name] + 1}" if unit.kind in split else ""
        found.append((item, f"vm:{numbers[unit.kind]}{part}"))
    return found
