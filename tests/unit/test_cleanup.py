"""A clean-up gives everything back, whatever fails, and tells all of it."""

import asyncio
from collections.abc import Callable

import pytest

from pytest_readonly_vm.host.cleanup import Cleanup


def failing(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


def clean_up(*steps: Callable[[], object]) -> None:
    with Cleanup() as cleanup:
        for step in steps:
            with cleanup.step():
                step()


def test_every_step_is_taken_and_every_error_told() -> None:
    done: list[int] = []
    steps = [failing(OSError("first")), lambda: done.append(1), failing(ValueError("second")), lambda: done.append(2)]
    with pytest.raises(OSError, match="first") as raised:
        clean_up(*steps)
    assert done == [1, 2]
    assert raised.value.__notes__ == ["and then, in the clean-up, ValueError: second"]


def test_nothing_is_raised_when_nothing_failed() -> None:
    clean_up(lambda: None)


def test_what_stands_outside_of_any_step_comes_first() -> None:
    def clean_up_badly() -> None:
        with Cleanup() as cleanup:
            with cleanup.step():
                raise OSError("earlier")
            raise KeyError("outside")

    with pytest.raises(KeyError) as raised:
        clean_up_badly()
    assert raised.value.__notes__ == ["and then, in the clean-up, OSError: earlier"]


def test_a_cancellation_stays_one() -> None:
    done: list[str] = []

    async def clean_up_slowly() -> None:
        with Cleanup() as cleanup:
            with cleanup.step():
                failing(OSError("earlier"))()
            with cleanup.step():
                await asyncio.sleep(600)
            done.append("the rest")

    async def cancelled() -> None:
        task = asyncio.create_task(clean_up_slowly())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert done == ["the rest"]
