"""Whoever waits for a guest hears of QEMU's end as of the guest's own, with a real process in QEMU's place."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import cast

import pytest

from pytest_readonly_vm.channels.liveness import Liveness
from pytest_readonly_vm.errors import GuestDied, GuestPanicked, GuestPaused, VmError
from pytest_readonly_vm.guest.nothing_booted import unless_nothing_boots
from pytest_readonly_vm.host.loop import LoopThread
from pytest_readonly_vm.host.process import Process, Spawner
from pytest_readonly_vm.qemu.instance import Instance

LONG = 60.0


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    with ExitStack() as stack:
        thread = LoopThread()
        stack.callback(thread.close)
        yield thread


@pytest.fixture
def qemu(loop: LoopThread) -> Iterator[Process]:
    with ExitStack() as stack:
        spawner = Spawner(loop)
        stack.callback(spawner.close)
        yield spawner.start(("sleep", "600"), name="it", env=os.environ, pass_fds=(), ruleset=None)


def cause(kind: Callable[[str], VmError]) -> Callable[[], VmError]:
    return lambda: kind("it: told")


async def wait(liveness: Liveness, *, anew: bool = False) -> None:
    await liveness.race(asyncio.sleep(LONG), anew=anew)


def test_an_end_before_anybody_watched_is_told(loop: LoopThread, qemu: Process) -> None:
    qemu.kill()
    liveness = Liveness(qemu)
    for anew in (False, True):
        with pytest.raises(GuestDied, match="it: QEMU was killed by SIGKILL"):
            loop.run(wait(liveness, anew=anew))
    assert liveness.trouble is not None


def test_a_boot_that_is_over_before_it_begins_does_not_begin(loop: LoopThread, qemu: Process) -> None:
    qemu.kill()
    boot = unless_nothing_boots(cast(Instance, None), partial(pytest.fail, "it has begun"))
    with pytest.raises(GuestDied, match="SIGKILL"):
        loop.run(Liveness(qemu).race(boot))


def test_an_end_wakes_every_kind_of_wait(loop: LoopThread, qemu: Process) -> None:
    liveness = Liveness(qemu)

    async def waits() -> list[object]:
        loop.loop.call_soon(qemu.signal, signal.SIGKILL)
        kinds = (
            wait(liveness),
            liveness.news(asyncio.Event()),
            liveness.wait(loop.loop.create_future()),
            qemu.race(asyncio.sleep(LONG)),
        )
        return list(await asyncio.gather(*kinds, return_exceptions=True))

    errors = loop.run(waits())
    assert [str(error) for error in errors] == ["it: QEMU was killed by SIGKILL"] * 4
    assert len({id(error) for error in errors}) == 4


def test_of_a_guest_that_stood_still_the_end_is_told(loop: LoopThread, qemu: Process) -> None:
    liveness = Liveness(qemu)
    loop.loop.call_soon_threadsafe(lambda: liveness.stand_still(cause(GuestPaused), is_trouble=False))
    with pytest.raises(GuestPaused):
        loop.run(wait(liveness))
    qemu.kill()
    with pytest.raises(GuestDied, match="SIGKILL"):
        loop.run(wait(liveness))


def test_of_a_guest_that_had_ended_its_own_end_is_told(loop: LoopThread, qemu: Process) -> None:
    liveness = Liveness(qemu)
    loop.loop.call_soon_threadsafe(lambda: liveness.report_end(cause(GuestPanicked)))
    qemu.kill()
    with pytest.raises(GuestPanicked):
        loop.run(wait(liveness))


def test_a_passing_end_in_the_moment_of_news_is_told(loop: LoopThread, qemu: Process) -> None:
    liveness = Liveness(qemu)

    async def waits() -> None:
        event = asyncio.Event()

        def happen() -> None:
            liveness.report_end(cause(GuestDied), passing=True)
            event.set()

        loop.loop.call_soon(happen)
        await liveness.news(event)

    with pytest.raises(GuestDied):
        loop.run(waits())
    liveness.check()


def test_a_wait_that_times_out_leaves_the_task(loop: LoopThread, qemu: Process) -> None:
    liveness = Liveness(qemu)

    async def waits() -> bool:
        task = asyncio.ensure_future(asyncio.sleep(LONG))
        await liveness.wait(task, 0.01)
        is_left = not task.done()
        task.cancel()
        return is_left

    assert loop.run(waits())
