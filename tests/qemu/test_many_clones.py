"""Many clones cost no more than few: of this process nothing grows with their number, and each is small."""

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from pytest_readonly_vm import Lab, VmConfig
from tests.accelerator import ACCEL
from tests.guests.tiny_linux import tiny_linux
from tests.qemu.holdings import SLACK, Holdings
from tests.qemu.waiting import GENEROUS, eventually

CLONES = 45
WARM_UP = 10
AT_ONCE = 8
ENOUGH = 120 << 20
"""Bytes of memory for a clone of a small Linux of a gigabyte, once it has run a command."""


def test_many_in_a_row_hold_no_more_than_one(
    temporary: Path, small: Callable[..., VmConfig], allocated: Callable[[], int]
) -> None:
    config = small("hello", start="clone", no_cache=True)
    with Lab() as lab:

        def clone(times: int) -> None:
            for number in range(times):
                machine = lab.start(config, name=f"clone {number}")
                assert machine.manner == "clone"
                assert machine.qmp.execute("query-status")["running"]
                machine.close()

        clone(WARM_UP)
        held, memory = Holdings.now(temporary), allocated()
        clone(CLONES - WARM_UP)
        later = Holdings.now(temporary)
        assert replace(later, threads=0) == replace(held, threads=0)
        assert later.threads <= held.threads  # idle ones of earlier tests may have ended
        assert allocated() < memory + SLACK // 4


def test_many_at_once_are_each_on_their_own_and_small(temporary: Path) -> None:
    guest = tiny_linux()
    files = {"image": guest.disk, "kernel": guest.kernel, "initrd": guest.initrd, "append": guest.append}
    settings = {"accel": ACCEL, "memory": "1G", "start": "clone", "no_cache": True, "boot_timeout": GENEROUS}
    config = VmConfig().replace(**files, **settings)
    held = Holdings.now(temporary)
    with Lab() as lab, ThreadPoolExecutor(AT_ONCE) as threads:

        def work(number: int) -> tuple[str, str, int]:
            machine = lab.start(config, name=f"clone {number}")
            found = machine.run(
                f"cat /mnt/mine /root/mine; echo {number} | tee /mnt/mine /root/mine", check=False
            ).stdout
            return found, machine.run("head -c 16 /dev/urandom | base64").stdout, proportional_memory(machine.pid)

        found, numbers, memory = zip(*threads.map(work, range(AT_ONCE)), strict=True)
        assert found == tuple(f"{number}\n" for number in range(AT_ONCE))
        assert len(set(numbers)) == AT_ONCE
        assert max(memory) < ENOUGH
        assert sorted(boot.manner for boot in lab.boots) == ["boot", *["clone"] * AT_ONCE]
    eventually(lambda: Holdings.now(temporary).are_no_more_than(held), "all has been given back")


def proportional_memory(pid: int) -> int:
    """Bytes of memory that a process has for itself, and its share of what it has with others."""
    [kibibytes] = re.findall(r"^Pss: +(\d+) kB$", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    return int(kibibytes) << 10
