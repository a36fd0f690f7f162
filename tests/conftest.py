"""Fixtures of the suite: tiny guests that really boot, and pytest runs that use them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.guests import bootsector

READY = "hello"
"""What every boot-sector guest of the suite prints when it is up."""

SMALL = ("--vm-memory=16M", f"--vm-ready=console:{READY}", "--vm-accel=tcg", "--vm-boot-timeout=60", "--vm-timeout-factor=1")
"""Options for a run on a boot-sector guest."""


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

    def run(kind: str, *arguments: str) -> pytest.RunResult:
        return pytester.runpytest_subprocess(
            f"--vm-image={boot_sector(kind)}", *SMALL, "-p", "no:cacheprovider", *arguments, timeout=120
        )

    return run
