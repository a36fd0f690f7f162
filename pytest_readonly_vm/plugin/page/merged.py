"""Owns how the data of several pages becomes that of one: each run begins at the same moment, on lanes of its own.

The pages are of shards, which began when their computers were free, by clocks of their own; beside each other they say
more. What is in a page may be anybody's: it is taken apart by what the scripts expect, and all else is refused.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pytest_readonly_vm.errors import ConfigurationError
from pytest_readonly_vm.plugin.page.rows import MOST_ENTRIES
from pytest_readonly_vm.printable import line

_DATA = re.compile(rb'<script type="application/json" id="data">(.*?)</script', re.DOTALL)
_MOMENTS = ("asked", "handed", "started", "ended")
_COLUMNS = ("kind", "what", "time", "duration", "outcome")
_LATEST = 1 << 53
"""Microseconds; beyond it JavaScript has no whole numbers."""
_DEEPEST = 4
_MOST_SHARDS = 10_000

Data = dict[str, Any]


def data_in(document: bytes, origin: str) -> Data:
    """The data of a page.

    :raises ConfigurationError: it is no page, or a damaged one; the message begins with `origin`.
    """
    import json

    if (found := _DATA.search(document)) is None:
        raise ConfigurationError(f"{origin}: it is no page of a run")
    try:
        return _checked(json.loads(found[1]))
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError):
        raise ConfigurationError(f"{origin}: the page is damaged: its data is not what a run has written") from None


def shards_of(pages: Sequence[tuple[str, Data]]) -> Data | None:
    """Which shards the pages are of: their numbers, as often as they are there, in order; None for pages of none.

    :param pages: for each what it is called, and its data.
    :raises ConfigurationError: the pages are of shards that do not belong together.
    """
    shards = [(name, data["shard"]) for name, data in pages if data["shard"]]
    if not shards:
        return None
    first, begun = shards[0]
    for name, shard in shards:
        if (shard["of"], shard["plan"]) != (begun["of"], begun["plan"]):
            told = [f"{who} is shard {', '.join(map(str, one['numbers']))}/{one['of']} of plan {one['plan']}" for
                    who, one in ((first, begun), (name, shard))]  # fmt: skip
            raise ConfigurationError(
                f"{' and '.join(told)}: they were not shared out as one, so that tests may have run twice or in none; "
                "give all jobs of a run the same tests and the same file of durations"
            )
    return {**begun, "numbers": sorted(number for _, shard in shards for number in shard["numbers"])}


def merged(pages: Sequence[tuple[str, Data]], *, relink: Callable[[int, str], str]) -> Data:
    """The data of all.

    :param pages: for each what its lanes are called by, and its data.
    :param relink: what becomes of a link to a folder in the page of a number.
    """
    kinds: dict[str, int] = {}
    texts: dict[str, int] = {}
    first = pages[0][1]
    whole: Data = {
        "title": first["title"],
        "versions": first["versions"],
        "epoch": min(data["epoch"] for _, data in pages),
        "seconds": max(data["seconds"] for _, data in pages),
        "most": MOST_ENTRIES,
        "shard": None,
    }
    tests: list[Data] = []
    lanes: list[Data] = []
    starts: list[Data] = []
    for number, (name, data) in enumerate(pages):

        def named(row: Data, name: str = name) -> Data:
            return {**row, "worker": f"{name} {row['worker']}".strip()}

        for test in data["tests"]:
            tests.append({**named(test), "evidence": [relink(number, link) for link in test["evidence"]]})
        starts += map(named, data["starts"])
        for lane in data["lanes"]:
            entries = dict(lane["entries"])
            for column, ours, theirs in (
                ("kind", kinds, "kinds"),
                ("what", texts, "texts"),
                ("outcome", texts, "texts"),
            ):
                entries[column] = [_number(ours, data[theirs], index) for index in entries[column]]
            lanes.append({**named(lane), "entries": entries})
    return whole | {"kinds": list(kinds), "texts": list(texts), "tests": tests, "lanes": lanes, "starts": starts}


def _number(known: dict[str, int], table: Sequence[str], index: int) -> int:
    return known.setdefault(table[index], len(known)) if index >= 0 else -1


def _checked(data: Any) -> Data:
    """What of data a page has, if it is what `Rows` makes.

    :raises ValueError: it is not; or as what is wrong is met.
    """
    kinds, texts = _texts(data["kinds"]), _texts(data["texts"])
    _require(len(kinds) <= 255)  # which the scripts keep in a byte
    return {
        "title": _text(data["title"]),
        "versions": _text(data["versions"]),
        "epoch": _seconds(data["epoch"]),
        "seconds": _seconds(data["seconds"]),
        "kinds": kinds,
        "texts": texts,
        "tests": [_test(row) for row in _list(data["tests"])],
        "lanes": [_lane(row, len(kinds), len(texts)) for row in _list(data["lanes"])],
        "starts": [_start(row) for row in _list(data["starts"])],
        "shard": _shard(data["shard"]) if data.get("shard") else None,
    }


def _shard(row: Any) -> Data:
    """Of a run it has one number, of a page that was merged several."""
    of = _whole(row["of"])
    numbers = list(map(_whole, _list(row["numbers"]) if "numbers" in row else [row["number"]]))
    _require(1 <= of <= _MOST_SHARDS and all(1 <= number <= of for number in numbers))
    return {"numbers": numbers, "of": of, "plan": line(_text(row["plan"]))[:64]}


def _test(row: Any) -> Data:
    words = {name: _text(row[name]) for name in ("nodeid", "name", "worker", "outcome", "crash", "message")}
    phases = [(_text(when), _moment(begin), _moment(end)) for when, begin, end in _list(row["phases"])]
    return {**words, "phases": phases, "evidence": _texts(row["evidence"])}


def _lane(row: Any, kinds: int, texts: int) -> Data:
    columns = {name: [_whole(value) for value in _list(row["entries"][name])] for name in _COLUMNS}
    _require(len({len(column) for column in columns.values()}) == 1)
    _require(all(0 <= index < kinds for index in columns["kind"]))
    _require(all(-1 <= index < texts for name in ("what", "outcome") for index in columns[name]))
    _require(all(0 <= value <= _LATEST for name in ("time", "duration") for value in columns[name]))
    _require(columns["time"] == sorted(columns["time"]))
    others = {_text(name): _plain(value) for name, value in row.items() if name not in (*_MOMENTS, "entries")}
    _require({"name", "test", "worker", "seconds", "manner", "scope", "dropped"} <= others.keys())
    for name in ("name", "test", "worker", "manner", "scope"):
        _text(others[name])
    _seconds(others["seconds"])
    return {**others, **{name: _moment(row[name]) for name in _MOMENTS}, "entries": columns}


def _start(row: Any) -> Data:
    found = {_text(name): _plain(value) for name, value in row.items()}
    for name in ("name", "manner", "worker"):
        _text(found[name])
    _seconds(found["seconds"])
    return found


def _plain(value: Any, depth: int = 0) -> Any:
    """A value that JSON may have, of no more floors than ours have."""
    _require(depth < _DEEPEST)
    if isinstance(value, Mapping):
        return {_text(name): _plain(one, depth + 1) for name, one in value.items()}
    if isinstance(value, list):
        return [_plain(one, depth + 1) for one in value]
    if isinstance(value, float):
        return _seconds(value)
    _require(value is None or isinstance(value, str | int))
    return value


def _text(value: Any) -> str:
    _require(isinstance(value, str))
    return str(value)


def _texts(value: Any) -> list[str]:
    return [_text(one) for one in _list(value)]


def _list(value: Any) -> list[Any]:
    _require(isinstance(value, list))
    return list(value)


def _whole(value: Any) -> int:
    _require(isinstance(value, int) and not isinstance(value, bool))
    return int(value)


def _moment(value: Any) -> int:
    _require(0 <= _whole(value) <= _LATEST)
    return int(value)


def _seconds(value: Any) -> float:
    _require(isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0)
    return float(value)


def _require(fits: bool) -> None:
    if not fits:
        raise ValueError
