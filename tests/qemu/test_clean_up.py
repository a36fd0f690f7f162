"""When a machine or a run ends, everything is given back, whatever fails on the way."""

import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from pytest_readonly_vm import Lab, VmConfig
from tests.descriptors import descriptors


def fail() -> None:
    raise RuntimeError("by accident")


def fail_after(work: Callable[[], object]) -> Callable[[], None]:
    def both() -> None:
        work()
        fail()

    return both


def fail_after_waiting(work: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], Coroutine[Any, Any, None]]:
    async def both() -> None:
        await work()
        fail()

    return both


@pytest.mark.parametrize("start", ["cold", "clone"])
def test_an_accident_in_the_clean_up_of_one_machine_keeps_nothing(
    small: Callable[..., VmConfig], tmp_path: Path, start: str
) -> None:
    before = descriptors()
    config = small("hello", start=start, tmpdir=tmp_path)
    with Lab() as lab:
        machine, other = (lab.start(config, name=name) for name in ("one", "other"))
        instance = machine.instance
        done: list[str] = []
        instance.console.close = fail_after(instance.console.close)  # type: ignore[method-assign]
        instance.channels.close = fail_after_waiting(instance.channels.close)  # type: ignore[method-assign]
        instance.on_end += [lambda: done.append("the first"), fail]
        with pytest.raises(RuntimeError, match="by accident") as raised:
            machine.close()
        assert raised.value.__notes__ == ["and then, in the clean-up, RuntimeError: by accident"] * 2
        assert done == ["the first"]
        assert not Path(f"/proc/{machine.pid}").exists()
        assert not instance.folder.exists()
        assert other.qmp.execute("query-status")["running"]
    assert not Path(f"/proc/{other.pid}").exists()
    assert list(tmp_path.glob("*/*")) == []
    assert not descriptors() - before


def test_an_accident_at_the_end_of_a_run_keeps_nothing(small: Callable[..., VmConfig], tmp_path: Path) -> None:
    before = descriptors()
    lab = Lab()
    first, second = (
        lab.start(small("hello", start="clone", tmpdir=tmp_path), name=name) for name in ("first", "second")
    )
    first.instance.on_end.append(fail)
    lab._templates.close = fail_after(lab._templates.close)  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="by accident") as raised:
        lab.close()
    assert raised.value.__notes__ == ["and then, in the clean-up, RuntimeError: by accident"]
    for machine in (first, second):
        with pytest.raises(ProcessLookupError):
            os.kill(machine.pid, 0)
    assert list(tmp_path.glob("*/*")) == []
    assert not descriptors() - before
