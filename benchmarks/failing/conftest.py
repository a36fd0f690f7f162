"""Times each test, and in it what evidence does; the failures are no failure of the run."""

import json
import os
from collections.abc import Generator
from pathlib import Path

import pytest

from benchmarks.probes import Probe, applied
from benchmarks.stopwatch import Stopwatch
from pytest_readonly_vm.plugin.evidence import EvidenceKeeper

_PROBES = [Probe(EvidenceKeeper, name, "evidence") for name in ("begins", "look", "ends", "finish")]

_watches = pytest.StashKey[dict[str, Stopwatch]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_watches] = {}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    metafunc.parametrize("number", range(int(os.environ.get("BENCHMARK_ROUNDS", "1"))))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    assert isinstance(item, pytest.Function)
    watch = item.config.stash[_watches].setdefault(item.originalname, Stopwatch())
    watch.next_round()
    with applied(_PROBES, watch), watch.timing("all"):
        return (yield)


def pytest_sessionfinish(session: pytest.Session) -> None:
    session.exitstatus = pytest.ExitCode.OK
    if output := os.environ.get("BENCHMARK_OUTPUT"):
        found = {
            name: {label: watch.samples(label).values for label in ("all", "evidence")}
            for name, watch in session.config.stash[_watches].items()
        }
        Path(output).write_text(json.dumps(found))
