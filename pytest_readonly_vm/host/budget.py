"""Owns what the machines of all runs together may have of this host, as far as that is not said by the user."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_SHARE_OF_MEMORY = 0.8
_GUEST_CPUS_PER_CPU = 4


@dataclass(frozen=True, slots=True)
class Budget:
    """What all machines together may have: bytes of memory, and CPUs as guests count them."""

    memory: int
    cpus: int

    @classmethod
    def of_host(cls, root: Path = Path("/")) -> Self:
        """Four fifths of the memory and four guest CPUs for each CPU, of what this process may use of the host.

        Of all memory: what is available shrinks with every machine that is counted already. The last fifth is for QEMU
        itself, pytest and others. Guests idle a lot: with a worker for each CPU (``-n auto``), each with a machine in
        use and the next in preparation, of two CPUs each, at four CPUs hold nobody up and memory decides.

        :param root: below it ``proc`` and ``sys`` are looked for.
        """
        memory = min([os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), *_memory_limits(root)])
        cpus = min([len(os.sched_getaffinity(0)), *_cpu_limits(root)])
        return cls(int(memory * _SHARE_OF_MEMORY), max(1, int(cpus * _GUEST_CPUS_PER_CPU)))


def _memory_limits(root: Path) -> list[int]:
    """Those of the control groups of this process, of both versions, in bytes."""
    files = ("memory.max", "memory.limit_in_bytes")
    words = [_read(group / name).strip() for group in _groups(root, "memory") for name in files]
    return [int(word) for word in words if word.isdecimal()]


def _cpu_limits(root: Path) -> list[float]:
    """The same in CPUs: a quota of time for each period of time."""
    files = ("cpu.max", "cpu.cfs_quota_us", "cpu.cfs_period_us")
    words = [" ".join(_read(group / name) for name in files).split() for group in _groups(root, "cpu")]
    return [int(found[0]) / int(found[1]) for found in words if found and found[0].isdecimal()]


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of the control groups that this process is in, and of all above them, whose limits bind it too.

    See cgroups(7). A container may not see its group under the name that it is told, but sees its limits at the top.
    """
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers or controller in controllers.split(","):
            top = root / "sys/fs/cgroup" / (controller if controllers else "")
            group = top / path.lstrip("/")
            yield group
            while group != top:
                group = group.parent
                yield group


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
