"""A wait that is cut short ends at once, with an error of its own, and takes nothing away from others."""

import asyncio
import subprocess
import sys
from collections.abc import Callable

import pytest

from pytest_readonly_vm.host.loop import unless, within

pytestmark = pytest.mark.asyncio

LONG = 60.0


def an_error() -> Exception:
    return LookupError("it has happened")


def interruption() -> asyncio.Future[Callable[[], Exception]]:
    return asyncio.get_running_loop().create_future()


class TestUnless:
    async def test_returns_what_the_work_does(self) -> None:
        assert await unless(interruption(), asyncio.sleep(0, "done")) == "done"

    async def test_wakes_all_with_an_error_for_each(self) -> None:
        happening = interruption()
        asyncio.get_running_loop().call_soon(happening.set_result, an_error)
        waits = [unless(happening, asyncio.sleep(LONG)) for _ in range(3)]
        errors = await asyncio.gather(*waits, return_exceptions=True)
        assert [type(error) for error in errors] == [LookupError] * 3
        assert len({id(error) for error in errors}) == 3

    async def test_ends_what_comes_after_it(self) -> None:
        happening = interruption()
        happening.set_result(an_error)
        with pytest.raises(LookupError):
            await unless(happening, asyncio.sleep(LONG))

    async def test_waits_until_the_work_has_tidied_up(self) -> None:
        happening, done = interruption(), []

        async def work() -> None:
            try:
                await asyncio.sleep(LONG)
            finally:
                await asyncio.sleep(0)
                done.append("tidied up")

        asyncio.get_running_loop().call_soon(happening.set_result, an_error)
        with pytest.raises(LookupError):
            await unless(happening, work())
        assert done == ["tidied up"]

    async def test_makes_no_task(self) -> None:
        async def work() -> int:
            await asyncio.sleep(0)
            return len(asyncio.all_tasks())

        assert await unless(interruption(), work()) == 1

    async def test_is_over_when_the_work_is(self) -> None:
        """What happens in the moment in which the work ends cuts nothing that comes after."""
        happening, complaints = interruption(), []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))

        async def work() -> None:
            happening.set_result(an_error)

        await unless(happening, work())
        await asyncio.sleep(0.01)
        assert not complaints

    async def test_passes_on_a_timeout_of_the_work(self) -> None:
        async def work() -> None:
            raise TimeoutError("its own")

        with pytest.raises(TimeoutError, match="its own"):
            await unless(interruption(), work())

    async def test_who_is_cancelled_cancels_nobody_else(self) -> None:
        happening = interruption()
        first, second = (asyncio.ensure_future(unless(happening, asyncio.sleep(LONG))) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait((first,))
        assert first.cancelled()
        assert not happening.done()
        happening.set_result(an_error)
        with pytest.raises(LookupError):
            await second

    async def test_who_is_cancelled_in_that_moment_stays_so(self) -> None:
        happening = interruption()
        wait = asyncio.ensure_future(unless(happening, asyncio.sleep(LONG)))
        await asyncio.sleep(0)
        happening.set_result(an_error)
        wait.cancel()
        await asyncio.wait((wait,))
        assert wait.cancelled()


class TestWithin:
    async def test_returns_what_the_work_does(self) -> None:
        assert await within(LONG, asyncio.sleep(0, "done")) == "done"
        assert await within(None, asyncio.sleep(0, "done")) == "done"

    async def test_leaves_what_takes_longer_to_itself(self) -> None:
        left = asyncio.Event()

        async def slow() -> None:
            try:
                await asyncio.sleep(LONG)
            finally:
                await asyncio.sleep(0.01)
                left.set()

        with pytest.raises(LookupError):
            await within(0.01, slow(), an_error)
        assert not left.is_set()
        await asyncio.wait_for(left.wait(), LONG)

    async def test_passes_on_a_timeout_of_the_work(self) -> None:
        async def work() -> None:
            raise TimeoutError("its own")

        with pytest.raises(TimeoutError, match="its own"):
            await within(LONG, work(), an_error)


FEW_FILES = """
import gc, os, resource, sys
from pytest_readonly_vm.host.loop import LoopThread

free = os.dup(0)
os.close(free)
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (free + int(sys.argv[1]), most))
try:
    LoopThread().close()
except OSError as error:
    print(error.strerror)
gc.collect()
"""


@pytest.mark.parametrize(("files", "said"), [(0, "Too many open files\n"), (2, "Too many open files\n"), (3, "")])
async def test_a_loop_that_cannot_be_had_leaves_nothing_half_made(files: int, said: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", FEW_FILES, str(files)), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert await process.communicate() == (said.encode(), b"")
