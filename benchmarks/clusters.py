"""Measures clusters: from "a test wants one" to a first command on each machine, and suites of tests that each have
one, against forming it for each.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import guests, suites
from benchmarks.samples import Samples
from benchmarks.session import PLUGIN, Cost, Sessions, pytest_arguments
from benchmarks.stopwatch import Stopwatch
from benchmarks.table import Table
from pytest_readonly_vm import cluster
from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.machine.lab import Lab
from pytest_readonly_vm.machine.new_cluster import NewCluster
from tests.guests.etcd_packages import etcd_packages

RUNS = 20
TESTS = 20

_STARTED, _COMMANDS, _ALL, _CLOSED = "all machines ready", "a first command on each", "**all**", "close"
_FORMED_EACH = 2
"""How many tests that form a cluster are measured; more would take half an hour."""
_FROZEN, _FORMED, _BOOTED = "formed once, a copy for each", "formed for each of copies", "formed for each of boots"
_TIMES = {_FROZEN: 1, _FORMED: TESTS // _FORMED_EACH, _BOOTED: TESTS}
"""What is measured, that often, is the whole suite."""
_EXAMPLE = Path(__file__).parent.parent / "conftest_examples" / "etcd"
_SUITE = """\
import pytest
from formed import CTL, etcd

class New:
    def __init__(self, network, machine):
        self.network, self._machine = network, machine

    def machine(self, name, **settings):
        return self._machine(name=name, **settings)

@pytest.mark.parametrize("number", ["first", *range(1, {tests})])
def test_frozen(number, readonly_vm_cluster):
    readonly_vm_cluster[0].run(f"{{CTL}} endpoint health")

@pytest.mark.parametrize("number", range({each}))
def test_formed(number, vm_private_network, readonly_vm_factory):
    etcd.form(New(vm_private_network, readonly_vm_factory))
"""


@cluster
def three(new: NewCluster) -> None:
    """Three machines on a network."""
    lan = new.network("lan")
    for name in ("one", "two", "three"):
        new.machine(name, networks=[lan])


def tables(runs: int) -> Iterator[Table]:
    """Starts of three machines, then suites with a cluster of etcd."""
    for name, guest in guests.both().items():
        yield _starts(name, guest.replace(start="clone", no_cache=True, cluster=three), runs)
    yield from _suites(max(runs // 5, 1))


def _starts(name: str, config: VmConfig, runs: int) -> Table:
    watch = Stopwatch()
    with Lab() as lab:
        lab.start_cluster(config, name="formed").close()
        for _ in range(runs):
            watch.next_round()
            with watch.timing(_ALL):
                with watch.timing(_STARTED):
                    machines = lab.start_cluster(config, name="measured")
                with watch.timing(_COMMANDS):
                    for vm in machines:
                        vm.run("true")
            with watch.timing(_CLOSED):
                machines.close()
    table = Table(f"{name}, 1G: a cluster of three machines that is formed, and in memory", "ms")
    for label in (_STARTED, _COMMANDS, _ALL, _CLOSED):
        table.add(label, watch.samples(label))
    return table


def _suites(runs: int) -> Iterator[Table]:
    """Whole processes of pytest, in turns, the template and the cluster in the cache."""
    kinds = {
        _FROZEN: ("-ktest_frozen",),
        _FORMED: ("-ktest_formed",),
        _BOOTED: ("-ktest_frozen and first", "--vm-start=cold"),
    }
    costs: dict[str, list[Cost]] = {how: [] for how in kinds}
    with TemporaryDirectory(dir="/var/tmp") as cache, Sessions() as sessions:
        for path in _EXAMPLE.glob("*.py"):
            shutil.copy(path, sessions.folder)
        (sessions.folder / "test_etcd.py").write_text(_SUITE.format(tests=TESTS, each=_FORMED_EACH))
        (sessions.folder / "pytest.ini").write_text("[pytest]\npythonpath = .\nvm_cluster = formed:etcd\n")
        options = suites.options(guests.full().replace(cache=cache))
        env = {"ETCD_PACKAGES": str(etcd_packages())}
        for number in range(runs + 1):
            for how, words in kinds.items():
                if not number and how != _FROZEN:
                    continue  # the first round forms it, and writes bytecode
                if how == _BOOTED and number != runs:
                    continue  # minutes; once will do
                arguments = pytest_arguments([PLUGIN], "-c", "pytest.ini", *options, *words, "test_etcd.py")
                cost = sessions.cost(*arguments, env=env)
                if number:
                    costs[how].append(cost)
    title = f"Debian: pytest with {TESTS} tests, each with a cluster of three members of etcd"
    for what, part in (("on the wall", "wall"), ("processor's time of all its processes", "processor")):
        table = Table(f"{title}, {what}", "s")
        for how, found in costs.items():
            times = _TIMES[how]
            label = how if times == 1 else f"{how}, extrapolated from {TESTS // times}"
            table.add(label, Samples(tuple(times * getattr(cost, part) for cost in found)))
        frozen = dict(table.rows)[_FROZEN]
        for label, samples in table.rows[1:]:
            table.notes.append(
                f"{label}: {samples.median / frozen.median:.1f} times as long as {_FROZEN} (medians; "
                f"{samples.minimum / frozen.minimum:.1f} times by the minima)."
            )
        yield table
