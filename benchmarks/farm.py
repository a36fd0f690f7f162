"""Owns the model of computers that share out a suite: what takes time, and what is shared. Pure.

What is assumed: workers take whole groups of tests, the largest first, as xdist's loadgroup does; a kind is booted, or
fetched, once on each computer, and who needs it meanwhile waits; processors of a computer, and the lines to the store
of templates and images, are divided evenly among those who use them, which is now this test and now that one; a machine
that finds no room waits, so that no more workers of a computer are busy than have room. Not in it: failures, retries,
and what tests do to each other.
"""

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache


@dataclass(frozen=True, slots=True)
class Group:
    """Tests that one worker runs."""

    kind: str | None
    tests: int
    seconds: float
    """Without the boot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Farm:
    """Workers on computers that are alike. Seconds, bytes, bytes a second."""

    workers: int
    per_host: int
    processors: float
    start: float = 0.0
    """Until a worker begins with its first test, on a processor of its own."""
    test_demand: float = 0.5
    """Processors that a test keeps busy while it runs, its QEMU included."""
    boot_demand: float = 1.0
    room: int = 10**9
    """Machines at once that a computer's budget has room for."""
    template_bytes: float = 0.0
    """Of a template that is fetched, where it need not be booted."""
    image_bytes: float = 0.0
    """Of the base image that is read over the network, on each computer and for each kind."""
    link: float = 1e9 / 8
    store: float = 10e9 / 8
    """What the store gives to all computers together."""
    is_warm: bool = False
    """Whether the store has all templates."""


@dataclass(frozen=True, slots=True)
class Outcome:
    seconds: float
    boots: int
    fetched: float
    """Bytes."""


@dataclass(slots=True)
class _Job:
    """Something under way."""

    worker: int
    host: int
    left: float
    on_network: bool
    demand: float
    makes: str | None
    then: float
    """Seconds of tests that follow."""


def simulate(groups: Sequence[Group], templates: Mapping[str, float], farm: Farm) -> Outcome:
    """What such a farm would take.

    :param templates: for each kind the seconds that a boot takes, with its layers.
    """
    queue = sorted(groups, key=lambda group: -group.tests)[::-1]
    running: list[_Job] = []
    ready: set[tuple[int, str]] = set()
    coming: dict[tuple[int, str], list[tuple[int, float]]] = {}
    busy = [0] * -(-farm.workers // farm.per_host)
    idle = [(0, number) for number in range(min(farm.workers, len(queue)))]
    heapq.heapify(idle)
    boots, fetched, now = 0, 0.0, farm.start * max(1.0, min(farm.workers, farm.per_host) / farm.processors)

    def tests(worker: int, host: int, seconds: float) -> _Job:
        return _Job(worker, host, max(seconds, 1e-9), False, farm.test_demand, None, 0.0)

    def begin(worker: int, group: Group) -> None:
        nonlocal boots, fetched
        host = worker // farm.per_host
        busy[host] += 1
        key = (host, group.kind or "")
        if group.kind is None or key in ready:
            running.append(tests(worker, host, group.seconds))
        elif key in coming:
            coming[key].append((worker, group.seconds))
        else:
            coming[key] = []
            size = farm.template_bytes if farm.is_warm else farm.image_bytes
            fetched += size
            boots += not farm.is_warm
            running.append(_Job(worker, host, max(size, 1e-9), True, 0.0, group.kind, group.seconds))

    while queue or running:
        waiting = []
        while queue and idle:
            _, worker = heapq.heappop(idle)
            if busy[worker // farm.per_host] >= farm.room:
                waiting.append(worker)
                continue
            begin(worker, queue.pop())
        for worker in waiting:
            heapq.heappush(idle, (0, worker))
        step, rates = _rates(running, farm, len(busy))
        now += step
        ended = []
        for job, rate in zip(running, rates, strict=True):
            job.left -= rate * step
            if job.left <= 1e-9 * max(1.0, rate):
                ended.append(job)
        if not ended:
            continue
        gone = {id(job) for job in ended}
        running = [job for job in running if id(job) not in gone]
        for job in ended:
            if job.makes is not None and job.on_network and not farm.is_warm:  # and now it boots
                boot = templates.get(job.makes, 0.0)
                running.append(replace(job, left=max(boot, 1e-9), on_network=False, demand=farm.boot_demand))
            elif job.makes is not None:
                key = (job.host, job.makes)
                ready.add(key)
                for worker, seconds in ((job.worker, job.then), *coming.pop(key)):
                    running.append(tests(worker, job.host, seconds))
            else:
                busy[job.host] -= 1
                heapq.heappush(idle, (0, job.worker))
    return Outcome(now, boots, fetched)


def _rates(running: Sequence[_Job], farm: Farm, hosts: int) -> tuple[float, list[float]]:
    """Until when nothing ends, and how fast each goes on until then."""
    jobs, demand, lines = [0] * hosts, [0.0] * hosts, [0] * hosts
    for job in running:
        jobs[job.host] += not job.on_network
        demand[job.host] += job.demand
        lines[job.host] += job.on_network
    whole = sum(lines)
    rates = [
        min(farm.link / lines[job.host], farm.store / whole)
        if job.on_network
        else _pace(jobs[job.host], demand[job.host], farm.processors)
        for job in running
    ]
    return min(job.left / rate for job, rate in zip(running, rates, strict=True)), rates


@cache
def _pace(jobs: int, demand: float, processors: float) -> float:
    """How fast jobs go on that share processors, of 1.

    Two that want one at the same moment are in each other's way, also where all together want less than there is. It
    is the machine repair model of queueing theory: a job is at a processor, and elsewhere, for times that have nothing
    to do with those of others.
    """
    if demand >= jobs:  # each wants one all the time, or several
        return min(1.0, processors / demand)
    want = demand / (jobs - demand)
    weight, whole, served = 1.0, 1.0, 0.0
    for number in range(1, jobs + 1):
        at = min(number, processors)
        weight *= (jobs - number + 1) * want / at
        whole += weight
        served += weight * at
        if whole > 1e200:
            weight, whole, served = weight / whole, 1.0, served / whole
    return min(1.0, served / whole / demand) if demand else 1.0


def limits(groups: Sequence[Group], templates: Mapping[str, float], farm: Farm) -> Iterator[tuple[str, float]]:
    """What the time would be without each of the things that take it, the greatest help first."""
    plenty = 1e18
    others = {
        "boots": (groups, {}, farm),
        "template transfer": (groups, templates, replace(farm, template_bytes=0.0)),
        "base reads": (groups, templates, replace(farm, image_bytes=0.0)),
        "the budget": (groups, templates, replace(farm, room=10**9)),
        "processors": (groups, templates, replace(farm, processors=plenty)),
        "the start of workers": (groups, templates, replace(farm, start=0.0)),
        "too few or too large groups": (_crumbs(groups), templates, farm),
    }
    found = {what: simulate(*case).seconds for what, case in others.items()}
    yield from sorted(found.items(), key=lambda one: one[1])


def _crumbs(groups: Sequence[Group]) -> list[Group]:
    """The same tests, each two groups of half as many."""
    return [
        half
        for group in groups
        for half in (replace(group, tests=group.tests // 2, seconds=group.seconds / 2),) * (2 if group.tests > 1 else 1)
    ]
