"""Says what more workers, computers and shards would give, from recorded times; and holds that against real runs.

``python -m benchmarks simulate`` records a suite of 60 tests in 5 kinds, predicts what 1, 2 and 4 workers and 3 shards
take, and measures it. ``python -m benchmarks.simulate --help`` predicts for a suite of one's own.
"""

import argparse
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import farm, guests, suites
from benchmarks.farm import Farm, Group
from benchmarks.samples import Samples
from benchmarks.session import PLUGIN, Cost, Sessions, pytest_arguments
from benchmarks.table import Table
from pytest_readonly_vm.errors import ConfigurationError
from pytest_readonly_vm.plugin.distribution.balance import Share, Unit, shared_out
from pytest_readonly_vm.plugin.distribution.timings import Timings, read_timings

RUNS = 3
SUITE = Path(__file__).with_name("kinds")
WORKERS = (1, 2, 4)
SHARDS = 3
_LINK, _STORE = 1e9 / 8, 10e9 / 8
"""Bytes a second, of each computer and of what all fetch from."""
SCALES = (1, 10, 100, 1000)
_MOST = 10**12


@dataclass(frozen=True, slots=True)
class _Recorded:
    """What one run by one process has told."""

    kinds: dict[str, str]
    timings: Timings
    start: float
    """Seconds of the run in which neither tests nor boots were."""
    demand: float
    """Processors that a test keeps busy."""

    def units(self) -> list[Unit]:
        return [Unit(test, kind, round(self.timings.tests[test] * 1e6)) for test, kind in self.kinds.items()]

    def shares(self, places: int) -> list[Share]:
        return shared_out(self.units(), {k: round(s * 1e6) for k, s in self.timings.templates.items()}, places)

    @property
    def here(self) -> Farm:
        processors = len(os.sched_getaffinity(0))
        return Farm(
            workers=1, per_host=10**6, processors=processors, start=self.start, test_demand=self.demand, store=1e18
        )


def tables(runs: int) -> Iterator[Table]:
    """Predicted and measured, in turns; then what larger farms would give."""
    with Sessions() as sessions:
        _run(sessions, "-k", "TestA")  # for the bytecode
        walls: dict[str, list[float]] = {}
        predicted: dict[str, list[float]] = {}
        boots: dict[str, int] = {}
        for _ in range(runs):
            recorded = _record(sessions)
            for workers in WORKERS:
                name = f"{workers} of xdist" if workers > 1 else "1 worker"
                groups = _groups(recorded.shares(workers))
                outcome = farm.simulate(groups, recorded.timings.templates, replace(recorded.here, workers=workers))
                cost, found = _run(sessions, f"-n{workers}", "--dist=loadgroup", timings=recorded.timings)
                walls.setdefault(name, []).append(cost.wall)
                predicted.setdefault(name, []).append(outcome.seconds)
                boots[name] = found["boots"]
            name = f"{SHARDS} shards, the longest"
            results = []
            for number, share in enumerate(recorded.shares(SHARDS), 1):
                cost, found = _run(sessions, f"--vm-shard={number}/{SHARDS}", timings=recorded.timings)
                outcome = farm.simulate(_groups([share]), recorded.timings.templates, recorded.here)
                results.append((outcome.seconds, cost.wall, found["boots"]))
            walls.setdefault(name, []).append(max(wall for _, wall, _ in results))
            predicted.setdefault(name, []).append(max(seconds for seconds, _, _ in results))
            boots[name] = sum(number for _, _, number in results)
    table = Table("60 tests in 5 kinds, no template anywhere at first: the whole run on the wall", "s")
    for name, measured in walls.items():
        table.add(f"{name}: measured", Samples(tuple(measured)))
        table.add(f"{name}: predicted", Samples(tuple(predicted[name])))
        off = Samples(tuple(m / p - 1 for m, p in zip(measured, predicted[name], strict=True)))
        table.notes.append(f"{name}: measured {off.median:+.0%} beside what was predicted; {boots[name]} boots.")
    yield table
    templates, tests = recorded.timings.templates, recorded.timings.tests
    usual = sum(tests.values()) / len(tests)
    alike = replace(recorded.here, per_host=int(recorded.here.processors), store=_STORE, link=_LINK)
    alike = replace(alike, template_bytes=100 << 20, image_bytes=50 << 20)
    yield scaled(tests=10_000, kinds=20, test=usual, boot=sum(templates.values()) / len(templates), farm_=alike)


def _groups(shares: list[Share]) -> list[Group]:
    """Those of each share: the tests of a kind together, others one by one."""
    found = []
    for share in shares:
        for kind in sorted(share.kinds):
            some = [unit for unit in share.units if unit.kind == kind]
            found.append(Group(kind, len(some), sum(unit.cost for unit in some) / 1e6))
        found += [Group(None, 1, unit.cost / 1e6) for unit in share.units if unit.kind is None]
    return found


def _record(sessions: Sessions) -> _Recorded:
    file = sessions.folder / "recorded.json"
    file.unlink(missing_ok=True)
    cost, found = _run(sessions, f"--vm-durations={file}", "--vm-store-durations")
    timings = read_timings(file)
    tests, boots = sum(timings.tests.values()), sum(timings.templates.values())
    start = max(cost.wall - tests - boots, 0.0)
    demand = (cost.processor - boots - start) / tests
    return _Recorded(found["tests"], timings, start, min(max(demand, 0.05), 2.0))


def _run(sessions: Sessions, *options: str, timings: Timings | None = None) -> tuple[Cost, dict]:  # type: ignore[type-arg]
    """A run with an empty cache, and nothing started ahead, so that what takes time is there to be seen."""
    output = sessions.folder / "kinds.json"
    with TemporaryDirectory(dir="/var/tmp") as cache:
        config = guests.tiny().replace(ready="auto", start="clone", cache=cache, prefetch="0", evidence="off")
        settings = [one for one in suites.options(config) if not one.startswith("--vm-memory")]
        if timings is not None:
            (sessions.folder / "durations.json").write_text(json.dumps(timings.entries()))
            settings.append("--vm-durations=durations.json")
        arguments = pytest_arguments([PLUGIN, "xdist"], "-c", "pytest.ini", *settings, *options, str(SUITE))
        cost = sessions.cost(*arguments, env={"BENCHMARK_OUTPUT": str(output)})
        return cost, json.loads(output.read_text())


def scaled(*, tests: int, kinds: int, test: float, boot: float, farm_: Farm) -> Table:
    """What 1, 10, 100 and 1,000 workers would give for a suite, and what they would wait for."""
    units = [Unit(f"{n:09}", f"kind {n % kinds}", max(round(test * 1e6), 1)) for n in range(tests)]
    templates: Mapping[str, float] = {f"kind {n}": boot for n in range(kinds)}
    table = Table(
        f"{tests:,} tests of {test:.2f} s in {kinds} kinds that boot for {boot:.1f} s; computers of "
        f"{farm_.processors:g} processors, {farm_.per_host} workers each, templates of "
        f"{farm_.template_bytes / (1 << 20):.0f} MiB, {farm_.image_bytes / (1 << 20):.0f} MiB read of an image",
        "s",
    )
    for workers in SCALES:
        groups = _groups(shared_out(units, {k: round(s * 1e6) for k, s in templates.items()}, workers))
        at = replace(farm_, workers=workers)
        for is_warm in (False, True):
            case = replace(at, is_warm=is_warm)
            outcome = farm.simulate(groups, templates, case)
            what = "templates fetched" if is_warm else "each computer boots"
            table.add(f"{workers:,} workers, {what}", Samples((outcome.seconds,)))
            helped, best = next(farm.limits(groups, templates, case))
            limit = helped if best < 0.97 * outcome.seconds else "the tests themselves"
            table.notes.append(
                f"{workers:,} workers, {what}: {outcome.boots} boots, {outcome.fetched / (1 << 30):.1f} GiB fetched; "
                f"the limit: {limit}."
            )
    table.notes.append(" ".join((farm.__doc__ or "").partition("\n\n")[2].split()))
    return table


def _many(text: str) -> int:
    if not 1 <= (found := int(text)) <= _MOST:
        raise ValueError
    return found


def _positive(text: str) -> float:
    if not 0 < (found := float(text)) <= _MOST:  # which nothing that is no number is
        raise ValueError
    return found


def _amount(text: str) -> float:
    return _positive(text) if float(text) else 0.0


_many.__name__, _positive.__name__ = "number from 1 on", "positive number"  # as argparse calls them
_amount.__name__ = "number from 0 on"


def main(arguments: Sequence[str] | None = None) -> None:
    """For a suite of one's own, by flags."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulate", description=__doc__)
    parser.add_argument(
        "--durations", type=Path, metavar="FILE", help="of --vm-durations; the rest is for what it lacks"
    )
    parser.add_argument("--tests", type=_many, default=10_000)
    parser.add_argument("--kinds", type=_many, default=20)
    parser.add_argument("--test", type=_amount, default=2.0, metavar="SECONDS", help="of a test, its clone included")
    parser.add_argument("--boot", type=_amount, default=20.0, metavar="SECONDS")
    parser.add_argument("--start", type=_amount, default=2.0, metavar="SECONDS", help="of a worker")
    parser.add_argument("--demand", type=_positive, default=0.5, metavar="PROCESSORS", help="of a test while it runs")
    parser.add_argument("--processors", type=_positive, default=8, help="of a computer")
    parser.add_argument("--per-host", type=_many, default=8, metavar="WORKERS")
    parser.add_argument("--room", type=_many, default=10**9, metavar="MACHINES", help="at once in a computer's budget")
    parser.add_argument("--template", type=_amount, default=300.0, metavar="MIB", help="of a template, as it travels")
    parser.add_argument("--image", type=_amount, default=500.0, metavar="MIB", help="read of a base image for a boot")
    parser.add_argument("--link", type=_positive, default=1.0, metavar="GBIT", help="of a computer")
    parser.add_argument("--store", type=_positive, default=10.0, metavar="GBIT", help="of the store, to all computers")
    given = parser.parse_args(arguments)
    try:
        timings = read_timings(given.durations) if given.durations else Timings()
    except ConfigurationError as error:
        parser.error(str(error))
    if given.durations and not timings.tests:
        parser.error(f"{given.durations} is not there, or has no durations of tests")
    if timings.tests:
        given.tests = len(timings.tests)
        given.test = sum(timings.tests.values()) / len(timings.tests)
    if timings.templates:
        given.kinds = len(timings.templates)
        given.boot = sum(timings.templates.values()) / len(timings.templates)
    model = Farm(
        workers=1,
        per_host=given.per_host,
        processors=given.processors,
        start=given.start,
        test_demand=given.demand,
        room=given.room,
        template_bytes=given.template * (1 << 20),
        image_bytes=given.image * (1 << 20),
        link=given.link * 1e9 / 8,
        store=given.store * 1e9 / 8,
    )
    print(scaled(tests=given.tests, kinds=given.kinds, test=given.test, boot=given.boot, farm_=model))


if __name__ == "__main__":
    main()
