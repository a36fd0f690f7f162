"""Owns what the page's scripts are given: the run's tests and machines as rows, entries packed into columns.

Pure. Times come in as seconds since the epoch and go out as whole microseconds since the run began. A run can have
hundreds of thousands of entries, so they are packed when they come, and every text is kept once.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

MOST_ENTRIES = 400_000
"""So many a page holds, which a browser still shows at once; of further machines only what ended badly."""

_LONGEST_MESSAGE = 4_000
_MOMENTS = ("asked", "handed", "started", "ended")


class Rows:
    """Grows while the run goes on; `data` is all of it."""

    def __init__(self, *, epoch: float, most: int = MOST_ENTRIES) -> None:
        """`epoch` is when the run began, `most` how many entries to keep."""
        self._epoch = epoch
        self._most = self._room = most
        self._tests: list[dict[str, Any]] = []
        self._latest: dict[tuple[str, str], dict[str, Any]] = {}
        self._lanes: list[dict[str, Any]] = []
        self._starts: list[dict[str, Any]] = []
        self._texts: dict[str, int] = {}
        self._kinds: dict[str, int] = {}

    def add_phase(
        self,
        worker: str,
        nodeid: str,
        when: str,
        times: tuple[float, float],
        *,
        outcome: str,
        crash: str,
        message: str,
        evidence: Sequence[str],
    ) -> None:
        """One phase of a test. A setup begins a row of its own, so a test that is run again has several."""
        test = self._latest.get((worker, nodeid))
        if test is None or when == "setup":
            name = nodeid.partition("::")[2] or nodeid
            test = {"nodeid": nodeid, "name": name, "worker": worker, "outcome": "", "phases": []}
            test |= {"crash": "", "message": "", "evidence": []}
            self._tests.append(test)
            self._latest[worker, nodeid] = test
        test["phases"].append((when, *map(self._microseconds, times)))
        if outcome and test["outcome"] not in ("failed", "error"):
            test["outcome"] = outcome
            test["crash"], test["message"] = crash, message[:_LONGEST_MESSAGE]
        test["evidence"] += [link for link in evidence if link not in test["evidence"]]

    def add_machine(self, worker: str, record: Mapping[str, Any]) -> None:
        """One machine with its entries, as `News` has it. If nobody says when it was asked for, it began then."""
        entries = sorted(record["entries"], key=lambda entry: entry["time"])
        # It may have been other QEMU processes, until it was reset, and what it says is of the last one. What was made
        # for it to go on from has been before any of them.
        own = (entry["time"] for entry in entries if entry["kind"] not in ("boot", "layer"))
        started = min([record["started"], *own])
        first = next((entry for entry in entries if entry["kind"] == "start"), None)
        seconds = first["seconds"] if first else record["seconds"]
        entries = [entry for entry in entries if entry is not first]
        record = {"asked": started, "handed": started + seconds, **record, "started": started, "seconds": seconds}
        kept = entries
        if len(entries) > self._room:
            kept = [entry for entry in entries if entry["outcome"] or entry["kind"] == "death"]
        self._room -= len(kept)
        columns = {
            "kind": [self._number(self._kinds, entry["kind"]) for entry in kept],
            "what": [self._number(self._texts, entry["what"]) for entry in kept],
            "time": [self._microseconds(entry["time"]) for entry in kept],
            "duration": [round(entry["seconds"] * 1e6) for entry in kept],
            "outcome": [self._number(self._texts, entry["outcome"]) for entry in kept],
        }
        self._lanes.append(
            {
                **{name: value for name, value in record.items() if name not in _MOMENTS},
                "worker": worker,
                **{name: self._microseconds(record[name]) for name in _MOMENTS},
                "dropped": len(entries) - len(kept),
                "entries": columns,
            }
        )

    def add_starts(self, worker: str, boots: Iterable[Mapping[str, Any]]) -> None:
        """Starts as `News` has them, of machines and of guests that were booted to be copied, and what is like them."""
        self._starts += [{**boot, "worker": worker} for boot in boots]

    def data(self, *, title: str, versions: str) -> dict[str, object]:
        """All of it, for a page that is written now."""
        return {
            "title": title,
            "versions": versions,
            "epoch": self._epoch,
            "seconds": time.time() - self._epoch,
            "most": self._most,
            "kinds": list(self._kinds),
            "texts": list(self._texts),
            "tests": self._tests,
            "lanes": self._lanes,
            "starts": self._starts,
        }

    def _microseconds(self, moment: float) -> int:
        return max(round((moment - self._epoch) * 1e6), 0)

    @staticmethod
    def _number(known: dict[str, int], text: str) -> int:
        """The place of a text in its table; -1 for none."""
        return known.setdefault(text, len(known)) if text else -1
