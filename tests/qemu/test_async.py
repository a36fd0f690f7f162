"""Async tests talk to the monitor from whatever event loop they run on, which goes on meanwhile."""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from pytest_readonly_vm import GuestDied, QmpError, VirtualMachine, WaitTimeout
from tests.qemu.conftest import STARTS
from tests.qemu.waiting import GENEROUS


@pytest.fixture
def vm_image(boot_sector: Callable[[str], Path]) -> Path:
    return boot_sector("hello")


@pytest.fixture(params=STARTS)
def vm_start(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


async def wait_and_cancel(vm: VirtualMachine) -> None:
    """A wait that is cancelled takes no event away from the next."""
    with anyio.move_on_after(0.05) as scope:
        await vm.qmp.await_event("STOP", timeout=GENEROUS)
    assert scope.cancelled_caught
    await vm.qmp.aexecute("stop")
    assert (await vm.qmp.await_event("STOP")).name == "STOP"


async def refuse(vm: VirtualMachine) -> None:
    with pytest.raises(QmpError, match="DeviceNotFound"):
        await vm.qmp.aexecute("device_del", id="nobody")
    with pytest.raises(WaitTimeout):
        await vm.qmp.await_event("NEVER", timeout=0.05)


async def die(vm: VirtualMachine) -> None:
    os.kill(vm.pid, signal.SIGKILL)
    with pytest.raises(GuestDied, match="SIGKILL"):
        await vm.qmp.await_event("NEVER", timeout=GENEROUS)


class TestAsync:
    @pytest.mark.asyncio
    async def test_under_pytest_asyncio(self, readonly_vm: VirtualMachine) -> None:
        await refuse(readonly_vm)
        answers = await asyncio.gather(*(readonly_vm.qmp.aexecute("query-name") for _ in range(20)))
        assert [answer["name"] for answer in answers] == [readonly_vm.name] * 20
        await wait_and_cancel(readonly_vm)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(readonly_vm.qmp.await_event("NEVER"), 0.05)
        await die(readonly_vm)

    @pytest.mark.anyio
    async def test_under_anyio(self, readonly_vm: VirtualMachine) -> None:
        await refuse(readonly_vm)
        names: list[str] = []

        async def ask() -> None:
            names.append((await readonly_vm.qmp.aexecute("query-name"))["name"])

        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(ask)
        assert names == [readonly_vm.name] * 20
        await wait_and_cancel(readonly_vm)
        await die(readonly_vm)

    @pytest.mark.anyio
    async def test_lets_the_callers_loop_run_meanwhile(self, readonly_vm: VirtualMachine) -> None:
        ticked = anyio.Event()

        async def tick() -> None:
            await anyio.lowlevel.checkpoint()
            ticked.set()
            await readonly_vm.qmp.aexecute("stop")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tick)
            await readonly_vm.qmp.await_event("STOP", timeout=GENEROUS)
        assert ticked.is_set()

    @pytest.mark.asyncio
    async def test_allows_the_blocking_calls_as_well(self, readonly_vm: VirtualMachine) -> None:
        assert readonly_vm.qmp.execute("query-status")["running"]
