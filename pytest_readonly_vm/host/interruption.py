"""Owns how a wait is cut short, by a deadline or by what happens meanwhile, and what becomes of the work waited for."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")
F = TypeVar("F", bound=asyncio.Future[Any])

Interruption = asyncio.Future[Callable[[], Exception]]
"""Done when something has happened; its result makes the error, anew for everybody, as each gets its own traceback.

It is nobody's alone, so it must not be awaited itself: whoever is cancelled while he awaits a future cancels it.
"""


async def unless(interruption: Interruption, work: Awaitable[T]) -> T:
    """Await something that ends at once when it is cancelled, unless there is an interruption first, or was.

    It makes no task. What comes in the same moment as the interruption may be lost, or may be what is returned.

    :raises Exception: the interruption's error.
    """
    is_over = False

    def cut(_: object) -> None:
        if not is_over:
            scope.reschedule(0.0)  # which is past, so at once

    try:
        async with asyncio.timeout(None) as scope:
            interruption.add_done_callback(cut)
            try:
                return await work
            finally:
                is_over = True
                interruption.remove_done_callback(cut)
    except TimeoutError:
        if not scope.expired():
            raise
    raise interruption.result()()


async def within(seconds: float | None, work: Awaitable[T], late: Callable[[], Exception] = TimeoutError) -> T:
    """Await something for so long, or as long as it takes. What takes longer is left to itself (see `leave`).

    :raises Exception: it took longer: the error that `late` makes.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait((task,), timeout=seconds)
        if not task.done():
            raise late()
        return task.result()
    finally:
        leave(task)


async def cancel(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks and wait until each has ended, in whatever way."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def leave(task: asyncio.Future[Any]) -> None:
    """Cancel what nobody waits for any more, without waiting: to take leave of a guest that is silent may take long.

    It may have failed in the same moment.
    """
    task.cancel()
    quiet(task)


def quiet(task: F) -> F:
    """The same task; asyncio does not complain about an error of it that nobody has asked for."""
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task
