"""Measures what the package adds to QEMU for one machine: boot, end, a whole test, and where the time goes.

The yardstick is the machine's own command line, started from a shell (see `shell`). Both boot a boot sector that
prints one word, so QEMU's own time is as short as it gets. Yardstick and package take turns, and the differences are
those within a round. The package's boot ends later by what it then does: allow reboots again, by a monitor command.
The phases come from functions of the package timed from outside (see `probes`).
"""

import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from benchmarks import guests, probes, shell, suites
from benchmarks.probes import Probe
from benchmarks.samples import Samples, total
from benchmarks.session import PLUGIN, Sessions, pytest_arguments
from benchmarks.stopwatch import Stopwatch
from benchmarks.table import Table
from pytest_readonly_vm.channels.console import Console
from pytest_readonly_vm.channels.qmp import Qmp
from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.guest.readiness import ConsolePattern
from pytest_readonly_vm.host.process import Process, Spawner
from pytest_readonly_vm.host.seal import Landlock
from pytest_readonly_vm.host.workspace import Workspace
from pytest_readonly_vm.image import base
from pytest_readonly_vm.machine.lab import Lab
from pytest_readonly_vm.qemu import resources
from pytest_readonly_vm.qemu.spec import MachineSpec

RUNS = 100

_SUITE = Path(__file__).with_name("suite")
_BOOT, _END = "Lab.start", "vm.close"
_WHOLE = "**all**"
_SPAWN = "start: fork and exec"
_IMPORT_CODE = """\
import time, pytest, pytest_readonly_vm.plugin
started = time.perf_counter()
import pytest_readonly_vm.plugin.hooks, pytest_readonly_vm.plugin.ladder, pytest_readonly_vm.machine.lab
print(time.perf_counter() - started)
"""
_BALLAST = (0, 256, 1024)  # MiB
_BLOCK = 1 << 16

_PHASES = (
    Probe(Workspace, "machine_folder", "start: folder made, room on the disk checked"),
    Probe(socket, "socketpair", "start: socket pairs"),
    Probe(MachineSpec, "command_line", "start: command line"),
    Probe(Landlock, "__init__", "start: Landlock ruleset"),
    Probe(Landlock, "close", "start: Landlock ruleset"),
    Probe(Spawner, "start", _SPAWN),
    Probe(Qmp, "__init__", "start: monitor and console objects"),
    Probe(Console, "__init__", "start: monitor and console objects"),
    Probe(Qmp, "connect", "start: QEMU up to the monitor's greeting"),
    Probe(ConsolePattern, "wait", "start: guest up to READY"),
    Probe(
        Qmp, "command", lambda _self, name, *_, **__: f"{'end' if name == 'quit' else 'start'}: monitor command {name}"
    ),
    Probe(Process, "ended", "end: QEMU gone after its answer"),
    Probe(Qmp, "disconnect", "end: monitor and console let go"),
    Probe(Console, "close", "end: monitor and console let go"),
    Probe(shutil, "rmtree", "end: folder removed"),
)
_ONCE = (
    Probe(resources, "find_hypervisor", "QEMU found and asked (-help), accelerator chosen"),
    Probe(base, "open_base", "base inspected by qemu-img and opened"),
    Probe(Lab, "close", "lab closed: threads ended, folder removed"),
)


def tables(runs: int) -> Iterator[Table]:
    """The machine by itself, within a pytest test, its phases, and what only the first machine of a run costs."""
    with guests.boot_sector() as config:
        command = _yardstick(config)
        yield _machine(config, command, runs)
        yield _test(config, command, runs)
        yield _phases(config, runs)
        yield _first_machine(config, max(runs // 2, 1))
        yield _forks(config, max(runs // 4, 1))  # the last, for its effect on the memory of this process stays


def _yardstick(config: VmConfig) -> str:
    assert isinstance(config.image, Path)
    with Lab() as lab:
        vm = lab.start(config, name="yardstick")
        vm.close()
        return shell.shell_command(vm.command_line, config.image)


def _machine(config: VmConfig, command: str, runs: int) -> Table:
    stopwatch = Stopwatch()
    with Lab() as lab:
        for number in range(runs + 1):
            stopwatch.next_round()
            for measure in (_shell_once, _lab_once)[:: 1 if number % 2 else -1]:
                measure(stopwatch, lab, config, command)
            if not number:
                stopwatch.forget_round()
    shell_boot, shell_end = stopwatch.samples("shell boot"), stopwatch.samples("shell end")
    boot, end = stopwatch.samples(_BOOT), stopwatch.samples(_END)
    table = Table("one machine with a boot sector", "ms")
    table.add("shell: start to READY", shell_boot)
    table.add("package: Lab.start", boot)
    table.add("**boot overhead**", boot - shell_boot)
    table.add("shell: SIGKILL to end", shell_end)
    table.add("**package: close (teardown)**", end)
    table.add("shell, all", shell_boot + shell_end)
    table.add("package, all", boot + end)
    table.add("**overhead, all**", boot + end - (shell_boot + shell_end))
    table.note_minima("overhead, all", boot + end, shell_boot + shell_end)
    return table


def _shell_once(stopwatch: Stopwatch, lab: Lab, config: VmConfig, command: str) -> None:
    run = shell.run(command, guests.READY)
    stopwatch.add("shell boot", run.boot)
    stopwatch.add("shell end", run.end)


def _lab_once(stopwatch: Stopwatch, lab: Lab, config: VmConfig, command: str) -> None:
    with stopwatch.timing(_BOOT):
        vm = lab.start(config, name="overhead")
    with stopwatch.timing(_END):
        vm.close()


def _test(config: VmConfig, command: str, runs: int) -> Table:
    """Tests in one pytest session, each from the first hook of its setup to the last of its teardown."""
    with Sessions() as sessions:
        output = sessions.folder / "durations.json"
        environment = {
            "BENCHMARK_COMMAND": command,
            "BENCHMARK_OUTPUT": str(output),
            "BENCHMARK_ROUNDS": str(runs + 1),
        }
        arguments = pytest_arguments([PLUGIN], "-c", "pytest.ini", *suites.options(config), str(_SUITE))
        sessions.python(*arguments, env=environment)
        found = json.loads(output.read_text())
    nothing, plugin, yardstick = (Samples(tuple(found[f"test_{name}"][1:])) for name in ("nothing", "plugin", "shell"))
    table = Table("one test that does nothing, of many in one session", "ms")
    table.add("test without a machine", nothing)
    table.add("test that runs the command line from a shell", yardstick)
    table.add("test with the fixture readonly_vm", plugin)
    table.add("**overhead per test**", plugin - yardstick)
    table.note_minima("overhead per test", plugin, yardstick)
    return table


def _phases(config: VmConfig, runs: int) -> Table:
    stopwatch = Stopwatch()
    with Lab() as lab:
        lab.start(config, name="first").close()
        with probes.applied(_PHASES, stopwatch):
            for _ in range(runs):
                stopwatch.next_round()
                with stopwatch.timing(_WHOLE):
                    lab.start(config, name="phases").close()
    whole = stopwatch.samples(_WHOLE)
    parts = [label for label in stopwatch.labels() if label != _WHOLE]
    table = Table("the phases of one machine, from Lab.start to the end of close", "ms")
    for label in parts:
        table.add(label, stopwatch.samples(label))
    table.add("everything else", whole - total(stopwatch.samples(label) for label in parts))
    table.add(_WHOLE, whole)
    return table


def _first_machine(config: VmConfig, runs: int) -> Table:
    stopwatch = Stopwatch()
    with probes.applied(_ONCE, stopwatch), Sessions() as sessions:
        sessions.python("-c", _IMPORT_CODE)  # to have the bytecode
        for _ in range(runs):
            stopwatch.next_round()
            stopwatch.add("asyncio, qemu.qmp and the rest imported", float(sessions.python("-c", _IMPORT_CODE).stdout))
            with Lab() as lab:
                lab.start(config, name="first").close()
    table = Table("once per run, with the first machine", "ms")
    for label in stopwatch.labels():
        table.add(label, stopwatch.samples(label))
    table.add("**all**", total(stopwatch.samples(label) for label in stopwatch.labels()))
    return table


def _forks(config: VmConfig, runs: int) -> Table:
    """A fork copies the page tables of the process, so it takes the longer the more the tests have in memory."""
    table = Table("fork and exec of one machine, by what pytest's process has in memory besides", "ms")
    with Lab() as lab:
        lab.start(config, name="first").close()
        for mebibytes in _BALLAST:
            ballast = [b"\1" * _BLOCK for _ in range((mebibytes << 20) // _BLOCK)]
            stopwatch = Stopwatch()
            with probes.applied([Probe(Spawner, "start", _SPAWN)], stopwatch):
                for _ in range(runs):
                    stopwatch.next_round()
                    lab.start(config, name="fork").close()
            table.add(f"{mebibytes} MiB", stopwatch.samples(_SPAWN))
            del ballast
    return table
