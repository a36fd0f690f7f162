"""Owns the asyncio loop on a thread of its own, where everything that must go on while a test runs goes on."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from pytest_readonly_vm.host.interruption import cancel

T = TypeVar("T")


class LoopThread:
    """An asyncio loop that runs on its own thread until `close`.

    A test blocks its own thread for as long as it likes; monitors, consoles and the ends of processes are served here
    all the same.
    """

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="readonly-vm loop", daemon=True)
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
