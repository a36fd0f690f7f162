"""Measures the worst moments: from a fault to the exceptions of all who wait, and what evidence costs a test.

The time of a fault that the guest is told to make counts from the telling, so it has the guest's own share. What
evidence does is timed from outside (see `probes`) in a pytest session.
"""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import guests
from benchmarks.samples import Samples
from benchmarks.session import PLUGIN, Sessions, pytest_arguments
from benchmarks.stopwatch import Stopwatch
from benchmarks.table import Table
from pytest_readonly_vm import VirtualMachine, VmError, WaitTimeout
from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.machine.lab import Lab
from tests.guests import bootsector

RUNS = 20

_LONG = 60.0
_SETTLING = 0.1
"""Seconds after which all waits have begun for certain: a wait for an event does not mind what was before it."""

_Act = Callable[[VirtualMachine], object]

_WAITS: tuple[_Act, ...] = (
    lambda vm: vm.console.expect("never", _LONG),
    lambda vm: vm.qmp.wait_event("NEVER", timeout=_LONG),
    lambda vm: vm.run("sleep 60"),
    lambda vm: vm.wait_for_file("/never", _LONG),
)
_KILLED: Mapping[str, _Act] = {
    "QEMU killed by SIGKILL": lambda vm: os.kill(vm.pid, signal.SIGKILL),
    "QEMU killed by SIGSEGV": lambda vm: os.kill(vm.pid, signal.SIGSEGV),
}
_TOLD: Mapping[str, _Act] = {
    "panic, told by pvpanic": lambda vm: vm.console.send("p"),
    "panic, on the console": lambda vm: vm.console.send("k"),
    "triple fault": lambda vm: vm.console.send("t"),
    "reset": lambda vm: vm.console.send("r"),
    "power off": lambda vm: vm.console.send("o"),
}
_LINUX: Mapping[str, _Act] = {
    "panic, by sysrq from the serial console": lambda vm: vm.console.send("echo c >/proc/sysrq-trigger\n"),
}

_SUITE = Path(__file__).with_name("failing")


def tables(runs: int) -> Iterator[Table]:
    """Deaths of a boot sector and of a Linux, then evidence of these and of a Debian."""
    with guests.boot_sector() as hello, TemporaryDirectory(dir="/var/tmp") as folder:
        obeys = bootsector.write_image(Path(folder) / "obeys.img", bootsector.obeys(guests.READY))
        tiny = guests.tiny().replace(ready="auto", start="clone", cache=folder)
        with Lab() as lab:
            yield _deaths(lab, "boot sector", hello.replace(image=obeys), {**_TOLD, **_KILLED}, runs)
            yield _deaths(lab, "tiny Linux, under a command", tiny, {**_LINUX, **_KILLED}, runs)
        yield _evidence("boot sector", hello, runs)
        # Nothing is started ahead, as that would take the longer from a test the shorter the one before it is.
        yield _evidence("tiny Linux", tiny.replace(prefetch="0"), runs)
        debian = guests.full().replace(start="clone", cache=folder, prefetch="0")
        yield _evidence("Debian", debian, max(runs // 2, 1))


def _deaths(lab: Lab, name: str, config: VmConfig, strokes: Mapping[str, _Act], runs: int) -> Table:
    watch = Stopwatch()
    for _ in range(runs):
        watch.next_round()
        for label, strike in strokes.items():
            vm = lab.start(config, name="mortal")
            watch.add(label, _woken(vm, strike))
            vm.close()
    table = Table(f"{name}: from the fault to the last of {len(_WAITS)} waiting threads' exceptions", "ms")
    for label in strokes:
        table.add(label, watch.samples(label))
    return table


def _woken(vm: VirtualMachine, strike: _Act) -> float:
    begun = threading.Barrier(len(_WAITS) + 1)

    def wait(what: _Act) -> float:
        begun.wait()
        try:
            what(vm)
        except WaitTimeout as error:
            raise RuntimeError("somebody was not woken") from error
        except VmError:
            return time.perf_counter()
        raise RuntimeError(f"{vm.name} has survived")

    with ThreadPoolExecutor(len(_WAITS)) as threads:
        woken = [threads.submit(wait, what) for what in _WAITS]
        begun.wait()
        time.sleep(_SETTLING)
        struck = time.perf_counter()
        strike(vm)
        return max(moment.result() for moment in woken) - struck


def _evidence(name: str, config: VmConfig, runs: int) -> Table:
    with Sessions() as sessions:
        output = sessions.folder / "durations.json"
        environment = {"BENCHMARK_OUTPUT": str(output), "BENCHMARK_ROUNDS": str(runs + 1)}
        settings = {name: getattr(config, name) for name in config.origins} | {"memory": f"{config.memory >> 20}M"}
        options = [f"--vm-{name.replace('_', '-')}={value}" for name, value in settings.items()]
        sessions.python(*pytest_arguments([PLUGIN], "-c", "pytest.ini", *options, str(_SUITE)), env=environment)
        found = json.loads(output.read_text())
    table = Table(f"{name}: a test that does nothing, with its machine", "ms")
    for kind in ("passes", "fails"):
        for label, what in (("all", "all"), ("evidence", "**of which evidence**")):
            table.add(f"{kind}: {what}", Samples(tuple(found[f"test_{kind}"][label][1:])))
    return table
