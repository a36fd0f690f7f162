"""Fixtures of the suite: tiny guests that really boot, and pytest runs that use them."""

import contextlib
import gc
import itertools
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.accelerator import ACCEL, Witness
from tests.forked import Forks, plain
from tests.guests import bootsector
from tests.qemu.waiting import LIMITS

READY = "hello"
"""What every boot-sector guest of the suite prints when it is up."""

LONGEST = (
    *("examples", "channels_elsewhere", "cloud_init", "provision", "places", "docs", "channel_ends", "attacks"),
    *(
        "capsule",
        "ssh",
        "template_cache",
        "kills",
        "images",
        "architectures",
        "templates",
        "start",
        "faults",
        "cd",
        "death",
        "screen",
        "faults_of_guests",
        "runs",
    ),
)
"""The files of tests that take longest, which begin first, so that no worker is left alone with one at the end.

At the head are those that each boot another kind of Debian, for which others would wait.
"""

LINES = 12
"""How many files a run with ``--durations`` tells the time of."""

SMALL = (
    "--vm-memory=16M",
    f"--vm-ready=console:{READY}",
    f"--vm-accel={ACCEL}",
    "--vm-boot-timeout=60",
    "--vm-timeout-factor=1",
    "--vm-budget=off",
)
"""Options for a run on a boot-sector guest.

It costs so little that it waits for no room: how long that is, and what is said of it, is up to the suite's other runs.
"""


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Witness())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {f"test_{name}": number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Not by the content of a file, in which there may be the time: workers are to collect the same tests."""
    return argname if isinstance(val, bytes) else None


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()  # tests that look at what is left collect garbage, for which thousands of tests need not be looked at


@pytest.fixture(scope="session")
def boot_sector(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The image of a boot-sector guest by the name of its function in `tests.guests.bootsector`."""
    folder = tmp_path_factory.mktemp("boot-sectors")

    def image(kind: str) -> Path:
        path = folder / f"{kind}.img"
        return path if path.exists() else bootsector.write_image(path, getattr(bootsector, kind)(READY))

    return image


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Beside pytest's durations of tests, those of the files, which is what a worker has to do in one piece."""
    if not terminalreporter.config.getoption("durations"):
        return
    seconds: defaultdict[str, float] = defaultdict(float)
    for report in itertools.chain.from_iterable(terminalreporter.stats.values()):
        if isinstance(report, pytest.TestReport):
            seconds[report.nodeid.partition("::")[0]] += report.duration
    terminalreporter.section("longest files")
    for path in sorted(seconds, key=seconds.__getitem__, reverse=True)[:LINES]:
        terminalreporter.write_line(f"{seconds[path]:7.1f} s  {path}")
    terminalreporter.write_line(f"{sum(seconds.values()):7.1f} s  all {len(seconds)} files")


@pytest.fixture(scope="session", autouse=True)
def bytecode(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Where Python may write no bytecode, processes do in a folder of the suite's: else that is half of their time."""
    ours = tmp_path_factory.getbasetemp()
    whole = ours.parent if hasattr(pytestconfig, "workerinput") else ours  # one for all workers
    with pytest.MonkeyPatch.context() as patch:
        if "PYTHONDONTWRITEBYTECODE" in os.environ:
            patch.delenv("PYTHONDONTWRITEBYTECODE")
            patch.setenv("PYTHONPYCACHEPREFIX", str(whole / "bytecode"))
        yield


@pytest.fixture(scope="session", autouse=True)
def accelerator() -> Iterator[None]:
    """KVM, if it has to be that, also of the machines of projects that leave the choice to the plugin."""
    with pytest.MonkeyPatch.context() as patch:
        if ACCEL == "kvm":
            patch.setenv("PYTEST_VM_ACCEL", ACCEL)
        yield


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """Runs of pytest in processes of their own that begin with all imports made."""
    with contextlib.closing(Forks()) as forks:
        yield forks


@pytest.fixture
def pytester(pytester: pytest.Pytester, forks: Forks, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """pytest's own, whose `runpytest_subprocess` forks the process; for a new interpreter there is `run`."""
    monkeypatch.setattr(pytester, "runpytest_subprocess", partial(forks.run, pytester))
    return pytester


@pytest.fixture
def run_in_vain(run_on: Callable[..., pytest.RunResult]) -> Callable[..., pytest.RunResult]:
    """As `run_on`, for a guest that never becomes ready, within the first limit that leaves it time to say `READY`."""

    def run(kind: str, *arguments: str, ready: str = "never", needed: tuple[str, ...] = ()) -> pytest.RunResult:
        for limit in LIMITS:
            options = (f"--vm-ready=console:{ready}", f"--vm-boot-timeout={limit}")
            result = run_on(kind, *options, *arguments, needed=needed)
            if READY in result.outlines:
                break
        return result

    return run


@pytest.fixture
def run_on(pytester: pytest.Pytester, boot_sector: Callable[[str], Path]) -> Callable[..., pytest.RunResult]:
    """Run pytest in a process of its own, on a boot-sector guest, with the tests that pytester has made."""

    def run(kind: str, *arguments: str, needed: tuple[str, ...] = ()) -> pytest.RunResult:
        return pytester.runpytest_subprocess(f"--vm-image={boot_sector(kind)}", *SMALL, *plain(*needed), *arguments)

    return run
