"""The command line: which benchmarks run, and how often each measures."""

import argparse
from collections.abc import Callable, Iterator

from benchmarks import boots, channels, clone, clones, deaths, import_cost, many_tests, overhead, seal_cost, starts
from benchmarks.table import Table

_BENCHMARKS: dict[str, tuple[Callable[[int], Iterator[Table]], int]] = {
    "import_cost": (import_cost.tables, import_cost.RUNS),
    "overhead": (overhead.tables, overhead.RUNS),
    "boots": (boots.tables, boots.RUNS),
    "channels": (channels.tables, channels.RUNS),
    "starts": (starts.tables, starts.RUNS),
    "clone": (clone.tables, clone.RUNS),
    "many_tests": (many_tests.tables, many_tests.RUNS),
    "in_a_row": (clones.in_a_row, clones.RUNS),
    "seal_cost": (seal_cost.tables, seal_cost.RUNS),
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
        for table in tables(arguments.runs or runs):
            print(table, end="\n\n", flush=True)


if __name__ == "__main__":
    main()
