"""Owns the asyncio loop on a thread of its own, where all goes on that must while a test runs, and the waits there: how
one is cut short, by a deadline or by what happens meanwhile, and what becomes of the work waited for.
"""

import asyncio
import contextlib
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

OUR_THREADS = "readonly-vm"
"""How the names of all threads of this package begin."""

T = TypeVar("T")
F = TypeVar("F", bound=asyncio.Future[Any])

Interruption = asyncio.Future[Callable[[], Exception]]
"""Done when something has happened; its result makes the error, anew for everybody, as each gets its own traceback.

It is nobody's alone, so it must not be awaited itself: whoever is cancelled while he awaits a future cancels it.
"""


class LoopThread:
    """An asyncio loop that runs on its own thread until `close`.

    A test blocks its own thread for as long as it likes; monitors, consoles and the ends of processes are served here
    all the same.
    """

    def __init__(self) -> None:
        """:raises OSError: this process may open no more files."""
        _require_descriptors()
        self.loop = asyncio.new_event_loop()
        self.loop.set_default_executor(ThreadPoolExecutor(thread_name_prefix=f"{OUR_THREADS} worker"))
        self._thread = threading.Thread(target=self._serve, name=f"{OUR_THREADS} loop", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop and return what it returns. Interrupting the caller cancels the coroutine.

        :raises RuntimeError: called on the loop's own thread, where waiting would wait for ever.
        """
        if threading.current_thread() is self._thread:
            work.close()
            raise RuntimeError("a callback of pytest-readonly-vm cannot make blocking calls to a machine")
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    async def run_from_elsewhere(self, work: Coroutine[Any, Any, T]) -> T:
        """Await a coroutine that runs on this loop, from a caller's event loop: asyncio's, or one that anyio serves."""
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            # Not asyncio, so trio: anyio knows it, and whoever tests with trio through anyio has both.
            from anyio.to_thread import run_sync

            try:
                return await run_sync(future.result, abandon_on_cancel=True)
            except BaseException:
                future.cancel()
                raise
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Cancel what is still running, stop the loop and join its thread."""
        if self.loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._cancel_all(), self.loop).result()
        asyncio.run_coroutine_threadsafe(self.loop.shutdown_default_executor(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    async def _cancel_all(self) -> None:
        await cancel(*(task for task in asyncio.all_tasks() if task is not asyncio.current_task()))


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


def _require_descriptors() -> None:
    """Whether a loop can be had is tried without one: asyncio prints a traceback later for each that is half made."""
    with contextlib.ExitStack() as opened:
        for _ in range(3):  # what it waits with, and the two ends by which it is woken
            opened.callback(os.close, os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
