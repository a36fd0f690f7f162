"""Measures the channels on the Debian guest: commands, files, and how soon the first command is done after a boot."""

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import guests
from benchmarks.stopwatch import Stopwatch
from benchmarks.table import Table
from pytest_readonly_vm.machine.lab import Lab
from pytest_readonly_vm.machine.vm import VirtualMachine

RUNS = 100

_CHANNELS = ("agent", "shell", "ssh")
_TRANSFER = 64 << 20
_TRANSFERS = 3


def tables(runs: int) -> Iterator[Table]:
    """Latencies, transfers, first commands. One machine for each channel, one after the other."""
    commands = Table("commands on Debian, warm: from the call to the result", "ms")
    files = Table("64 MiB of random bytes, with the comparison of checksums", "s")
    first = Table("boot of Debian: the guest's own account of it, and what the first command adds", "s")
    with Lab() as lab, TemporaryDirectory() as folder:
        for channel in _CHANNELS:
            config = guests.full().replace(channel=channel, ready="channel", start="cold")
            watch = Stopwatch()
            watch.next_round()
            vm = lab.start(config, name=channel)
            vm.run("true")
            watch.add("first command", vm.seconds_since_start())
            # When systemd has finished, by its own clock, which begins with the kernel.
            vm.run("systemctl is-system-running --wait", check=False)
            shown = vm.run(
                "cat /proc/uptime; systemctl show --value --property=FinishTimestampMonotonic"
            ).stdout.split()
            kernel_began = vm.seconds_since_start() - float(shown[0])
            watch.add("boot finished", kernel_began + int(shown[-1]) / 1e6)
            first.add(f"{channel}: first command done", watch.samples("first command"))
            first.add(f"{channel}: systemd had finished", watch.samples("boot finished"))
            _commands(vm, runs, commands)
            _files(vm, Path(folder), files)
            vm.close()
    yield commands
    yield files
    yield first


def _commands(vm: VirtualMachine, runs: int, table: Table) -> None:
    calls = {'run("true")': "true", 'run(["true"])': ["true"], 'run("echo hello")': "echo hello"}
    for label, command in calls.items():
        vm.run(command)
        samples = Stopwatch()
        for _ in range(runs):
            samples.next_round()
            with samples.timing(label):
                vm.run(command)
        table.add(f"{vm.channel}: {label}", samples.samples(label))


def _files(vm: VirtualMachine, folder: Path, table: Table) -> None:
    source, back = folder / "source", folder / "back"
    source.write_bytes(os.urandom(_TRANSFER))
    samples = Stopwatch()
    for _ in range(_TRANSFERS):
        samples.next_round()
        with samples.timing("push"):
            vm.push(source, "/var/tmp/transferred")
        with samples.timing("pull"):
            vm.pull("/var/tmp/transferred", back)
    for label in ("push", "pull"):
        table.add(f"{vm.channel}: {label}", samples.samples(label))
