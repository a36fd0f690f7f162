"""Clusters: formed once, frozen at one moment, and each start goes on from there, with all that was under way."""

import gc
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_readonly_vm import ConfigurationError, Lab, QemuDied, VirtualMachine, VmConfig, VmError, cluster, layer
from pytest_readonly_vm.cli import main
from pytest_readonly_vm.config.cluster import GuestCluster
from pytest_readonly_vm.machine.cluster import Cluster
from pytest_readonly_vm.machine.new_cluster import NewCluster
from pytest_readonly_vm.start import maker
from tests.accelerator import ACCEL
from tests.descriptors import descriptors
from tests.guests.tiny_linux import tiny_linux
from tests.qemu.waiting import GENEROUS, eventually

RECEIVE = "(tail -f /dev/null | nc -l -p 99 >/tmp/received) >/dev/null 2>&1 &"
SEND = "(n=0; while :; do n=$((n+1)); echo $n; usleep 10000; done | nc {} 99) >/dev/null 2>&1 &"
LISTENS = "cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | grep -q ':0063 0*:0000 0A '"
CLOCKS_AGREE = 0.5
"""Seconds; a few milliseconds on a computer that has nothing else to do, which the benchmarks show."""

formed: list[str] = []
"""What functions of this module have formed."""


@cluster
def pair(new: NewCluster, *, pushed: Path | None = None) -> None:
    """One sends numbers to the other, over a connection that is never closed."""
    formed.append("pair")
    lan = new.network("lan")
    one, two = (new.machine(name, networks=[lan]) for name in ("one", "two"))
    if pushed is not None:
        one.push(pushed, "/tmp/pushed")
    two.run(f"{RECEIVE} until {LISTENS}; do usleep 20000; done")
    one.run(SEND.format("two"))
    two.run("until [ -s /tmp/received ]; do usleep 20000; done")


def is_whole(vm: VirtualMachine) -> bool:
    """Whether numbers go on to come, and none was lost or came twice."""

    def received() -> list[int]:
        return [int(line) for line in vm.run("head -n -1 /tmp/received").stdout.split()]

    before = received()
    eventually(lambda: len(received()) > len(before) + 3, "more numbers come", within=GENEROUS)
    found = received()
    return found == list(range(1, len(found) + 1))


def settings(**others: object) -> dict[str, object]:
    guest = tiny_linux()
    files = {"image": guest.disk, "kernel": guest.kernel, "initrd": guest.initrd, "append": guest.append}
    common = {"memory": "96M", "accel": ACCEL, "channel": "shell", "network": "none", "boot_timeout": GENEROUS}
    return {**files, **common, "start": "clone", "budget": "off", **others}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clusters") / "cache"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


@pytest.fixture(scope="module")
def config(cache: Path) -> VmConfig:
    return VmConfig().replace(**settings(cluster=pair, cache=cache))


@pytest.fixture
def start(lab: Lab, config: VmConfig) -> Iterator[Callable[..., Cluster]]:
    """Start the cluster of this module, or another; it ends with the test."""
    clusters: list[Cluster] = []

    def start(**others: object) -> Cluster:
        clusters.append(lab.start_cluster(config.replace(**others), name="test"))
        return clusters[-1]

    yield start
    for one in clusters:
        one.close()


def test_each_start_goes_on_from_the_moment_at_which_it_was_formed(start: Callable[..., Cluster]) -> None:
    first, second = start(), start()
    assert formed == ["pair"]
    assert first.names == ("one", "two")
    assert [vm.name for vm in first] == ["test (one)", "test (two)"]
    assert all(is_whole(one["two"]) for one in (first, second))
    first["one"].run("touch /tmp/mine")
    assert not second["one"].run("test -e /tmp/mine", check=False).ok
    drawn = {vm.run("head -c 16 /dev/urandom | od -x").stdout for one in (first, second) for vm in one}
    assert len(drawn) == 4
    assert [vm.address(first.network()) for vm in first] == [vm.address(second.network()) for vm in second]
    assert first["two"].run("ping -c 1 one").ok


def test_clocks_agree(start: Callable[..., Cluster]) -> None:
    earliest, latest = [], []
    for vm in start():
        before = time.time()
        told = vm.run("touch /tmp/now && stat -c %y /tmp/now").stdout.split()[1]
        after = time.time()
        hours, minutes, seconds = told.split(":")
        since_midnight = int(hours) * 3600 + int(minutes) * 60 + float(seconds)
        earliest.append(since_midnight - after % 86400)
        latest.append(since_midnight - before % 86400)
    assert max(earliest) - min(latest) < CLOCKS_AGREE


def test_all_go_back_to_one_moment_and_go_on_apart(start: Callable[..., Cluster]) -> None:
    one = start()
    with one.checkpoint():
        for vm in one:
            vm.run("touch /tmp/later")
        one["two"].run("killall nc")
    assert not any(vm.run("test -e /tmp/later", check=False).ok for vm in one)
    assert is_whole(one["two"])
    with one.fork(2) as forks:
        assert [fork.name for fork in forks] == ["test (fork 1)", "test (fork 2)"]
        forks[0]["one"].run("touch /tmp/later")
        assert not forks[1]["one"].run("test -e /tmp/later", check=False).ok
        assert all(is_whole(fork["two"]) for fork in (one, *forks))
        for what in (forks[0], forks[0]["one"]):
            with pytest.raises(VmError, match=r"\(fork 1\).*: the moment at which .* is not kept.*; use a checkpoint"):
                what.reset()
    assert all(vm.closed for fork in forks for vm in fork)


def test_reset_is_of_one_or_of_all(start: Callable[..., Cluster]) -> None:
    one = start()
    for vm in one:
        vm.run("touch /tmp/later")
    one["one"].reset()
    assert [vm.run("test -e /tmp/later", check=False).ok for vm in one] == [False, True]
    assert one["one"].run("ping -c 1 two").ok
    one.reset()
    assert not any(vm.run("test -e /tmp/later", check=False).ok for vm in one)
    assert is_whole(one["two"])


def test_the_end_of_one_is_told_by_its_name(start: Callable[..., Cluster]) -> None:
    one = start()
    one["two"].kill()
    with pytest.raises(QemuDied, match=r"^test \(two\): QEMU was killed by SIGKILL"):
        one["two"].run("true")
    assert one["one"].run("true").ok
    assert not one["one"].run("ping -c 1 -W 1 two", check=False).ok


def test_another_run_takes_what_was_kept_unless_something_of_it_changed(
    cache: Path, config: VmConfig, tmp_path: Path, lab: Lab
) -> None:
    lab.start_cluster(config, name="test").close()
    count = len(formed)
    with Lab() as other:
        assert is_whole(other.start_cluster(config, name="another")["two"])
    assert len(formed) == count
    pushed = tmp_path / "pushed"
    for content in ("first", "second"):
        pushed.write_text(content)
        for _ in range(2):  # of which one forms it
            with Lab() as other:
                found = other.start_cluster(config.replace(cluster=pair(pushed=pushed)), name="another")
                assert found["one"].run("cat /tmp/pushed").stdout == content
    assert len(formed) == count + 2


def test_it_travels_with_what_is_on_its_way(
    cache: Path, config: VmConfig, tmp_path: Path, lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.start_cluster(config, name="test").close()
    count = len(formed)
    assert main(["cache", "push", str(tmp_path / "pushed"), "--folder", str(cache)]) == 0
    assert "stays here" not in capsys.readouterr().out
    with Lab() as other:
        elsewhere = config.replace(cache=tmp_path / "cache", cache_from=tmp_path / "pushed")
        assert is_whole(other.start_cluster(elsewhere, name="another")["two"])
    assert len(formed) == count


@layer
def pushing(vm: VirtualMachine, file: Path) -> None:
    vm.push(file, "/tmp/pushed")


@cluster
def layered(new: NewCluster, *, file: Path) -> None:
    new.machine("one", layers=[pushing(file)])


def test_what_a_layer_of_a_machine_has_read_counts(start: Callable[..., Cluster], tmp_path: Path) -> None:
    pushed = tmp_path / "pushed"
    for content in ("first", "second"):
        pushed.write_text(content)
        assert start(cluster=layered(file=pushed))["one"].read_text("/tmp/pushed") == content


@cluster
def own(new: NewCluster) -> None:
    formed.append("own")
    guest = tiny_linux()
    kernel = os.path.relpath(guest.kernel, Path(__file__).parent)
    new.machine("one", image=guest.disk, kernel=kernel, initrd=guest.initrd, append=guest.append)


def test_machines_may_have_images_that_only_the_function_names(
    config: VmConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    alone = replace(config, image=None, kernel=None, initrd=None, append=None, cluster=own)
    before, lost = descriptors(), list[str]()
    for name in ("first", "second"):
        with Lab(on_failure=lambda vm, _: lost.append(vm.name)) as lab:
            assert lab.start_cluster(alone, name=name)["one"].run("true").ok
            gc.collect()
    assert formed.count("own") == 1
    assert not descriptors() - before
    assert lost == []


class Interrupted(ThreadPoolExecutor):
    """Whoever first waits for what its threads do is interrupted."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._interruptions = iter((interrupt,))

    def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
        load = super().submit(*args, **kwargs)
        result = load.result
        vars(load)["result"] = lambda: next(self._interruptions, result)()
        return load


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "interruption",
    [(maker, "ThreadPoolExecutor", Interrupted), (VirtualMachine, "take_over", interrupt)],
    ids=["while they start", "when they are there"],
)
def test_nothing_is_left_of_a_fork_that_was_interrupted(
    lab: Lab,
    start: Callable[..., Cluster],
    monkeypatch: pytest.MonkeyPatch,
    interruption: tuple[object, str, object],
) -> None:
    one = start()
    before, networks = lab._resources.running.copy(), lab.networks.open
    with monkeypatch.context() as patched:
        patched.setattr(*interruption)
        with pytest.raises(KeyboardInterrupt):
            one.fork()
    assert (lab._resources.running, lab.networks.open) == (before, networks)


def test_one_that_is_expected_is_there_before_it_is_wanted(config: VmConfig) -> None:
    with Lab() as lab:
        lab.start_cluster(config, name="first").close()
        lab.expect([(config, "second")])
        eventually(lambda: len(lab.networks.open) == 1, "its network is there", within=GENEROUS)
        [network] = lab.networks.open
        assert lab.start_cluster(config, name="second").networks == (network,)
        lab.expect([(config, "third")])
        eventually(lambda: len(lab.networks.open) == 2, "its network is there", within=GENEROUS)
        lab.expect([])
        eventually(lambda: len(lab.networks.open) == 1, "nobody wanted it", within=GENEROUS)


@cluster
def nobody(new: NewCluster) -> None:
    new.network()


@cluster
def twice(new: NewCluster) -> None:
    new.machine("one")
    new.machine("one")


@cluster
def goes_back(new: NewCluster) -> None:
    new.machine("one").reset()


@cluster
def fails(new: NewCluster) -> None:
    lan = new.network()
    for name in ("one", "two"):
        new.machine(name, networks=[lan])
    raise RuntimeError("by accident")


@cluster
def wrong(new: NewCluster) -> None:
    new.machine("one", memory="much")


@cluster
def large(new: NewCluster) -> None:
    new.machine("one", memory="100T")


@cluster
def unfreezable(new: NewCluster) -> None:
    new.machine("one", disk_interface="nvme")


@pytest.mark.parametrize(
    ("form", "error", "says"),
    [
        (nobody, ConfigurationError, "cluster nobody makes no machine"),
        (twice, ConfigurationError, "cluster twice: machine 'one': there is one of that name already"),
        (wrong, ConfigurationError, "cluster wrong: machine 'one': memory: 'much' is not a size"),
        (large, ConfigurationError, "memory: [0-9]+M is more than this computer has"),
        (unfreezable, ConfigurationError, "cluster unfreezable cannot be frozen: .*; use start=cold, by which"),
        (goes_back, VmError, r"one\): reset\(\) is for a machine that is ready; this one is being made so"),
        (fails, RuntimeError, "by accident"),
    ],
)
def test_what_cannot_be_formed_is_told_and_leaves_nothing(
    config: VmConfig, form: GuestCluster, error: type[Exception], says: str
) -> None:
    lost: list[str] = []
    with Lab(on_failure=lambda vm, _: lost.append(vm.name)) as lab:
        with pytest.raises(error, match=says):
            lab.start_cluster(config.replace(cluster=form), name="test")
        assert lab.networks.open == ()
        assert lab.on_their_way() == []
    assert lost == {fails: ["test (two)", "test (one)"], twice: ["test (one)"], goes_back: ["test (one)"]}.get(form, [])


def test_without_copies_it_is_formed_for_each(config: VmConfig) -> None:
    count = len(formed)
    with Lab() as lab:
        one = lab.start_cluster(config.replace(start="cold"), name="test")
        assert is_whole(one["two"])
        assert [vm.manner for vm in one] == ["boot", "boot"]
        with one.checkpoint():
            one["one"].run("touch /tmp/later")
        assert not one["one"].run("test -e /tmp/later", check=False).ok
        assert is_whole(one["two"])
        with pytest.raises(VmError, match=r"test \(one\): the moment at which test was formed is not kept"):
            one["one"].reset()
        with pytest.raises(ConfigurationError, match="cluster nobody makes no machine"):
            lab.start_cluster(config.replace(start="cold", cluster=nobody), name="test")
        with pytest.raises(VmError, match="network alone: nobody is on it"):
            lab.networks.make("alone").checkpoint()
    assert len(formed) == count + 1
