"""Threads that start machines at the same time share what a run has once, and do not hold each other up."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from pytest_readonly_vm import Lab, VirtualMachine, VmConfig
from tests.qemu.waiting import GENEROUS

AT_ONCE = 4


def test_the_first_start_of_a_kind_by_several_threads_boots_it_once(small: Callable[..., VmConfig]) -> None:
    config = small("hello", start="clone", verify="hash")
    together = threading.Barrier(AT_ONCE, timeout=GENEROUS)
    with Lab() as lab, ThreadPoolExecutor(AT_ONCE) as threads:

        def start(number: int) -> str:
            together.wait()
            return lab.start(config, name=str(number)).manner

        assert set(threads.map(start, range(AT_ONCE))) == {"clone"}
        assert sorted(boot.manner for boot in lab.boots) == ["boot", *["clone"] * AT_ONCE]
        resources, bases = lab._resources, lab._bases
        shared = (resources._loops, resources._spawners, resources._workspaces, resources._hypervisors)
        once = (*shared, bases._opened, bases._digests)
        assert [len(things.made()) for things in once] == [1] * len(once)


def test_different_kinds_boot_at_the_same_time(small: Callable[..., VmConfig]) -> None:
    both_boot = threading.Barrier(2, timeout=GENEROUS)

    def ready(vm: VirtualMachine) -> None:
        both_boot.wait()  # or it is broken, and the boot fails

    with Lab() as lab, ThreadPoolExecutor(2) as threads:
        configs = [small("hello", start="clone", ready=ready, memory=size) for size in ("16M", "24M")]
        machines = list(threads.map(lambda config: lab.start(config, name="one of two"), configs))
        assert [machine.manner for machine in machines] == ["clone", "clone"]
