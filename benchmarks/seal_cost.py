"""Measures what the protection of the base costs: the seal per machine, the proof per test, the inspection per run.

How: machines with the seal off and on take turns; the ruleset and the comparison are timed by themselves, many calls
to a sample; images of each format and of several sizes are made in a temporary folder and opened as a run opens them.
"""

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import guests
from benchmarks.samples import Samples
from benchmarks.stopwatch import Stopwatch
from benchmarks.table import Table
from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.host.hypervisor import find_hypervisor
from pytest_readonly_vm.host.qemu_binary import find_qemu_img, host_arch
from pytest_readonly_vm.host.seal import Bounds, Landlock, landlock_abi
from pytest_readonly_vm.image.base import BaseImage, open_base
from pytest_readonly_vm.machine.lab import Lab

RUNS = 50

_CALLS = 200
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class _Image:
    """An image to make: its name in the table, ``qemu-img create``'s options and size."""

    label: str
    format: str
    size: int
    options: str = ""
    layers: int = 1


_IMAGES = (
    _Image("raw, 1 MiB", "raw", _MIB),
    _Image("raw, 16 GiB, sparse", "raw", 16384 * _MIB),
    _Image("qcow2, 1 MiB, empty", "qcow2", _MIB),
    _Image("qcow2, 1 GiB, all clusters allocated", "qcow2", 1024 * _MIB, "preallocation=metadata"),
    _Image("qcow2, 16 GiB, all clusters allocated", "qcow2", 16384 * _MIB, "preallocation=metadata"),
    _Image("qcow2, 3 layers", "qcow2", 64 * _MIB, layers=3),
    _Image("qed, 1 GiB, empty", "qed", 1024 * _MIB),
    _Image("vmdk, 1 GiB, empty", "vmdk", 1024 * _MIB),
    _Image("vdi, 1 GiB, empty", "vdi", 1024 * _MIB),
    _Image("vhdx, 1 GiB, empty", "vhdx", 1024 * _MIB),
    _Image("vpc, 1 GiB, empty", "vpc", 1024 * _MIB),
)


def tables(runs: int) -> Iterator[Table]:
    """Per machine, per test, per run."""
    with guests.boot_sector() as config:
        yield _machines(config, runs)
    yield _ruleset(runs)
    yield _proof(runs)
    yield _digests(max(runs // 5, 1))
    yield _inspection(max(runs // 2, 1))


def _machines(config: VmConfig, runs: int) -> Table:
    seals = ("off", "auto")
    configs = {seal: config.replace(seal=seal) for seal in seals}
    stopwatch = Stopwatch()
    with Lab() as lab:
        for number in range(runs + 1):
            stopwatch.next_round()
            for seal in seals[:: 1 if number % 2 else -1]:
                with stopwatch.timing(seal):
                    lab.start(configs[seal], name=seal).close()
            if not number:
                stopwatch.forget_round()
    off, auto = map(stopwatch.samples, seals)
    table = Table("one machine with a boot sector, started and closed", "ms")
    table.add("seal=off", off)
    table.add("seal=auto", auto)
    table.add("**what the seal adds**", auto - off)
    hypervisor = find_hypervisor(configs["auto"], arch=host_arch(), qemu_img=find_qemu_img(None))
    table.notes.append(f"seal=auto is here: {hypervisor.seal.describe()}.")
    return table


def _ruleset(runs: int) -> Table:
    table = Table("Landlock, per machine", "us")
    if landlock_abi():
        with TemporaryDirectory() as folder:
            bounds = Bounds(folder=Path(folder), tcp=False)
            table.add("ruleset made and closed", _per_call(lambda: Landlock(bounds).close(), runs))
    return table


def _proof(runs: int) -> Table:
    """What a test's end costs; ``verify=hash`` does there what ``stat`` does."""
    table = Table("the proof at each test's end (Lab.check_bases)", "us")
    with guests.boot_sector() as config:
        for verify in ("off", "stat", "hash"):
            with Lab() as lab:
                lab.start(config.replace(verify=verify), name=verify).close()
                table.add(f"verify={verify}, 1 layer", _per_call(lambda: lab.check_bases(during="a test"), runs))
    with TemporaryDirectory() as folder:
        base = _opened(_made(Path(folder), _Image("", "qcow2", _MIB, layers=3)))
        table.add("the comparison alone, 3 layers", _per_call(base.difference, runs))
        base.close()
    return table


def _digests(runs: int) -> Table:
    table = Table("verify=hash: SHA-256 of a base, twice per run", "ms")
    for mebibytes in (64, 512):
        with TemporaryDirectory() as folder:
            path = Path(folder) / "base.img"
            with path.open("wb") as file:
                for number in range(mebibytes):
                    file.write(number.to_bytes(2, "little") * (_MIB // 2))
            base = _opened(path)
            table.add(f"{mebibytes} MiB, in memory", _per_call(base.sha256, runs, calls=1))
            base.close()
    return table


def _inspection(runs: int) -> Table:
    table = Table("a base inspected and opened, once per run (open_base: qemu-img info, then check per layer)", "ms")
    with TemporaryDirectory() as folder:
        paths = {image.label: _made(Path(folder), image) for image in _IMAGES}
        stopwatch = Stopwatch()
        for _ in range(runs):
            stopwatch.next_round()
            for label, path in paths.items():
                with stopwatch.timing(label):
                    base = _opened(path)
                base.close()
        for label in paths:
            table.add(label, stopwatch.samples(label))
    return table


def _opened(path: Path) -> BaseImage:
    found = shutil.which("qemu-img")
    assert found is not None
    return open_base(path, format=None, origin="the benchmark", qemu_img=Path(found))


def _made(folder: Path, image: _Image) -> Path:
    path = folder / f"{len(tuple(folder.iterdir()))}.{image.format}"
    _create(path, image.format, *(("-o", image.options) if image.options else ()), size=image.size)
    for number in range(1, image.layers):
        above = path.with_suffix(f".{number}.{image.format}")
        _create(above, image.format, "-F", image.format, "-b", str(path), size=image.size)
        path = above
    return path


def _create(path: Path, format: str, *options: str, size: int) -> None:
    subprocess.run(["qemu-img", "create", "-q", "-f", format, *options, str(path), str(size)], check=True)


def _per_call(function: Callable[[], object], runs: int, *, calls: int = _CALLS) -> Samples:
    """One sample is the mean over `calls`: a single call is too short for the clock."""
    function()
    seconds = []
    for _ in range(runs):
        started = time.perf_counter()
        for _ in range(calls):
            function()
        seconds.append((time.perf_counter() - started) / calls)
    return Samples(tuple(seconds))
