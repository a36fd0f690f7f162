"""Times each test from the first hook of its setup to the last of its teardown, and puts rounds before functions."""

import json
import os
import time
from collections.abc import Generator
from pathlib import Path

import pytest

ROUNDS = int(os.environ.get("BENCHMARK_ROUNDS", "1"))

_durations = pytest.StashKey[dict[str, list[float]]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_durations] = {}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    metafunc.parametrize("number", range(ROUNDS))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Interleave the functions, so that what slows the computer down slows all of them down."""
    items.sort(key=_number)


def _number(item: pytest.Item) -> int:
    assert isinstance(item, pytest.Function)
    number = item.callspec.params["number"]
    assert isinstance(number, int)
    return number


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    started = time.perf_counter()
    result = yield
    assert isinstance(item, pytest.Function)
    item.config.stash[_durations].setdefault(item.originalname, []).append(time.perf_counter() - started)
    return result


def pytest_sessionfinish(session: pytest.Session) -> None:
    if output := os.environ.get("BENCHMARK_OUTPUT"):
        Path(output).write_text(json.dumps(session.config.stash[_durations]))
