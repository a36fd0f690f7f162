"""Measures what clones hold and how they get along: memory by their number, starts at once, many in a row."""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import guests
from benchmarks.samples import Samples
from benchmarks.table import Table
from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.machine.lab import Lab

RUNS = 100

_AT_ONCE = (1, 2, 4, 8)
_FIELDS = ("Pss", "Private_Dirty")
_WARM_UP = 3


def tables(lab: Lab, name: str, config: VmConfig, runs: int) -> Iterator[Table]:
    """The memory of clones that live at once, and the pace of clones that start at once; the template is there."""
    yield _memory(lab, name, config)
    yield _pace(lab, name, config, runs)


def _memory(lab: Lab, name: str, config: VmConfig) -> Table:
    table = Table(f"{name}, {config.memory >> 20}M: memory of clones, each after one command", "MB")
    for count in _AT_ONCE:
        with ExitStack() as machines:
            pids = []
            for number in range(count):
                vm = lab.start(config, name=f"{number + 1} of {count}")
                machines.callback(vm.close)
                vm.run("true")
                pids.append(vm.pid)
            held = [_held(pid) for pid in pids]
        for field in _FIELDS:
            table.add(f"{count} at once: {field} of each", Samples(tuple(one[field] for one in held)))
        for field in _FIELDS:
            table.add(f"{count} at once: {field} of all", Samples((sum(one[field] for one in held),)))
    return table


def _held(pid: int) -> dict[str, float]:
    """Bytes, as the kernel accounts them to a process."""
    lines = (line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    found = {words[0].rstrip(":"): 1024.0 * int(words[1]) for words in lines}
    return {field: found[field] for field in _FIELDS}


def _pace(lab: Lab, name: str, config: VmConfig, runs: int) -> Table:
    """Each clone starts, runs one command and is closed, on as many threads as there are clones at once."""
    table = Table(f"{name}: start, one command, close: by how many threads at once", "ms")
    paces = []
    for count in _AT_ONCE:
        with ThreadPoolExecutor(count) as threads:
            started = time.perf_counter()
            latencies = list(threads.map(lambda _: _one(lab, config), range(max(runs, 2 * count))))
            paces.append(len(latencies) / (time.perf_counter() - started))
        table.add(f"{count} at once: until its command is answered", Samples(tuple(latencies)))
    said = ", ".join(f"{pace:.1f} by {count}" for count, pace in zip(_AT_ONCE, paces, strict=True))
    table.notes.append(f"Clones per second: {said}.")
    return table


def _one(lab: Lab, config: VmConfig) -> float:
    started = time.perf_counter()
    vm = lab.start(config, name="one of many")
    vm.run("true")
    answered = time.perf_counter()
    vm.close()
    return answered - started


def in_a_row(runs: int) -> Iterator[Table]:
    """What is left of clones of the tiny guest that follow each other in one lab."""
    with TemporaryDirectory(dir="/var/tmp") as folder, Lab() as lab:
        config = guests.tiny().replace(ready="auto", start="clone", no_cache=True, tmpdir=folder)
        for _ in range(_WARM_UP):
            _one(lab, config)
        before = _left(Path(folder))
        latencies = Samples(tuple(_one(lab, config) for _ in range(runs)))
        after = _left(Path(folder))
    half = len(latencies) // 2
    table = Table(f"tiny Linux: {runs} clones in a row", "ms")
    table.add("until the first command is answered, first half", Samples(latencies.values[: half or 1]))
    table.add("until the first command is answered, second half", Samples(latencies.values[half:]))
    table.notes += [f"{what}: {before[what]} before, {after[what]} after." for what in before]
    yield table


def _left(folder: Path) -> dict[str, int]:
    here = Path("/proc/self")
    status = dict(line.split(":", 1) for line in (here / "status").read_text().splitlines())
    files = [path for path in folder.rglob("*") if not path.is_dir()]
    free = os.statvfs(folder)
    return {
        "Descriptors": len(list((here / "fd").iterdir())),
        "Threads": int(status["Threads"]),
        "Child processes": sum(len((task / "children").read_text().split()) for task in (here / "task").iterdir()),
        "Resident memory (kB)": int(status["VmRSS"].split()[0]),
        "Files and folders in the temporary folder": len(list(folder.rglob("*"))),
        "Bytes in those files": sum(path.stat().st_size for path in files),
        "Free on that disk (kB)": free.f_bavail * free.f_frsize >> 10,
    }
