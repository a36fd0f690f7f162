"""Fixtures of the tests that run real machines: what `readonly_vm` is made of here, and more ways to make images."""

import gc
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pytest_readonly_vm import Lab, VirtualMachine, VmConfig
from tests.accelerator import ACCEL
from tests.conftest import READY

STARTS = ("cold", "clone")
"""How a machine can come to be."""

BOOT_TIMEOUT = 60.0
"""Seconds; a boot-sector guest takes a tenth of one, on a computer that has nothing else to do."""


@pytest.fixture
def vm_memory() -> str:
    return "16M"


@pytest.fixture
def vm_accel() -> str:
    return ACCEL


@pytest.fixture
def vm_ready() -> str:
    return f"console:{READY}"


@pytest.fixture
def vm_no_cache() -> bool:
    return True


@pytest.fixture
def vm_boot_timeout() -> float:
    return BOOT_TIMEOUT


@pytest.fixture
def vm_timeout_factor() -> int:
    return 1


@pytest.fixture
def vm_budget() -> str:
    """So that no machine waits for the room of other runs: how long that is, nobody knows."""
    return "off"


@pytest.fixture
def small(boot_sector: Callable[[str], Path]) -> Callable[..., VmConfig]:
    """Configurations for a lab of the test's own: a boot-sector guest by its name, or another image by path or URL."""

    def config(image: str | Path, **settings: object) -> VmConfig:
        path = boot_sector(image) if isinstance(image, str) and "://" not in image else image
        known: dict[str, object] = {"memory": "16M", "accel": ACCEL, "ready": f"console:{READY}", "no_cache": True}
        known |= {"boot_timeout": BOOT_TIMEOUT, "timeout_factor": 1, "budget": "off"}
        return VmConfig().replace(image=path, **known | settings)

    return config


@pytest.fixture
def boot(small: Callable[..., VmConfig]) -> Iterator[Callable[..., VirtualMachine]]:
    """Boot what `small` describes, beyond pytest's own run: the image may be spoilt. The machine ends with the test."""
    with Lab() as lab, ExitStack() as machines:

        def start(image: str | Path, *, name: str = "guest", **settings: object) -> VirtualMachine:
            machine = lab.start(small(image, **settings), name=name)
            machines.callback(machine.close)
            return machine

        yield start


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files, of this test alone."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def allocated() -> Iterator[Callable[[], int]]:
    """Bytes that Python has allocated since and still holds.

    The process's resident memory would tell as much of the tests before, whose freed memory is taken anew or not.
    """

    def now() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        yield now
    finally:
        tracemalloc.stop()
