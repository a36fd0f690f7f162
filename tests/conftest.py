"""Fixtures of the suite: tiny guests that really boot, and pytest runs that use them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.guests import bootsector

READY = "hello"
"""What every boot-sector guest of the suite prints when it is up."""

LONGEST = ("channels", "provision", "examples", "docs", "start", "ssh", "kills", "endurance", "attacks", "capsule")
"""The files of tests that take longest, which begin first, so that no worker is left alone with one at the end."""

SMALL = (
    "--vm-memory=16M",
    f"--vm-ready=console:{READY}",
    "--vm-accel=tcg",
    "--vm-boot-timeout=60",
    "--vm-timeout-factor=1",
)
"""Options for a run on a boot-sector guest."""

UNNEEDED = ("cacheprovider", "asyncio", "anyio", "html", "metadata", "allure_pytest", "rerunfailures")


def plain(*needed: str) -> tuple[str, ...]:
    """Options that keep a run free of plugins that it does not need, which take time to load."""
    return tuple(word for name in UNNEEDED if name not in needed for word in ("-p", f"no:{name}"))


PLAIN = plain()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {f"test_{name}": number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


@pytest.fixture(scope="session")
def boot_sector(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The image of a boot-sector guest by the name of its function in `tests.guests.bootsector`."""
    folder = tmp_path_factory.mktemp("boot-sectors")

    def image(kind: str) -> Path:
        path = folder / f"{kind}.img"
        return path if path.exists() else bootsector.write_image(path, getattr(bootsector, kind)(READY))

    return image


@pytest.fixture
def run_on(pytester: pytest.Pytester, boot_sector: Callable[[str], Path]) -> Callable[..., pytest.RunResult]:
    """Run pytest in a process of its own, on a boot-sector guest, with the tests that pytester has made."""

    def run(kind: str, *arguments: str, needed: tuple[str, ...] = ()) -> pytest.RunResult:
        return pytester.runpytest_subprocess(
            f"--vm-image={boot_sector(kind)}", *SMALL, *plain(*needed), *arguments, timeout=120
        )

    return run
