"""The command line: which benchmarks run, and how often each measures."""

import argparse
import os
import platform
import time
from collections.abc import Callable, Iterator

from benchmarks import (
    boots,
    changes,
    channels,
    clone,
    clones,
    clusters,
    deaths,
    disk_faults,
    firmware,
    guests,
    image_kinds,
    import_cost,
    many_tests,
    network_base,
    networks,
    overhead,
    power_cuts,
    seal_cost,
    simulate,
    starts,
)
from benchmarks.table import Table

_BENCHMARKS: dict[str, tuple[Callable[[int], Iterator[Table]], int]] = {
    "import_cost": (import_cost.tables, import_cost.RUNS),
    "overhead": (overhead.tables, overhead.RUNS),
    "boots": (boots.tables, boots.RUNS),
    "channels": (channels.tables, channels.RUNS),
    "starts": (starts.tables, starts.RUNS),
    "clone": (clone.tables, clone.RUNS),
    "image_kinds": (image_kinds.tables, image_kinds.RUNS),
    "firmware": (firmware.tables, firmware.RUNS),
    "many_tests": (many_tests.tables, many_tests.RUNS),
    "network_base": (network_base.tables, network_base.RUNS),
    "networks": (networks.tables, networks.RUNS),
    "changes": (changes.tables, changes.RUNS),
    "clusters": (clusters.tables, clusters.RUNS),
    "disk_faults": (disk_faults.tables, disk_faults.RUNS),
    "power_cuts": (power_cuts.tables, power_cuts.RUNS),
    "in_a_row": (clones.in_a_row, clones.RUNS),
    "seal_cost": (seal_cost.tables, seal_cost.RUNS),
    "simulate": (simulate.tables, simulate.RUNS),
    "deaths": (deaths.tables, deaths.RUNS),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Print tables of measurements.")
    parser.add_argument("name", nargs="*", help=f"{', '.join(_BENCHMARKS)} (default: all)")
    parser.add_argument("--runs", type=int, metavar="N", help="measurements of each kind (default: each its own)")
    arguments = parser.parse_args()
    if unknown := set(arguments.name) - set(_BENCHMARKS):
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}; there are {', '.join(_BENCHMARKS)}")
    if arguments.runs is not None and arguments.runs < 1:
        parser.error("--runs is at least 1")
    for name in arguments.name or _BENCHMARKS:
        tables, runs = _BENCHMARKS[name]
        print(f"{name}: {_circumstances()}", end="\n\n", flush=True)
        for table in tables(arguments.runs or runs):
            print(table, end="\n\n", flush=True)


def _circumstances() -> str:
    """What a figure depends on besides the code, in a line."""
    cpus, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    return (
        f"{time.strftime('%Y-%m-%d %H:%M')}, {guests.emulator()}, Python {platform.python_version()}, "
        f"Linux {platform.release()}, {cpus} CPUs, load {load:.1f}."
    )


if __name__ == "__main__":
    main()
