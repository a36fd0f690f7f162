"""Owns transfers beside each other: several requests on their way, each over connections of its own thread."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from pytest_readonly_vm.remote.store import Store

T = TypeVar("T")

THREADS = 4
"""As many packs are in memory, and as many again packed."""


class Stores:
    """A place as each thread has it, opened when a thread first asks."""

    def __init__(self, new_store: Callable[[], Store]) -> None:
        self._new_store = new_store
        self._own = threading.local()
        self._opened: deque[Store] = deque()

    def here(self) -> Store:
        """That of this thread. :raises VmError: it cannot be opened."""
        if not hasattr(self._own, "store"):
            self._own.store = self._new_store()
            self._opened.append(self._own.store)
        found: Store = self._own.store
        return found

    def close(self) -> None:
        """Let go of all connections."""
        while self._opened:
            self._opened.pop().close()


def at_once(new_store: Callable[[], Store], jobs: Iterable[Callable[[Store], T]]) -> Iterator[T]:
    """What the jobs return, in their order. They are taken from where they come as there is room for them.

    The first error ends it: no further job begins, and those under way, which have limits of their own, are waited for.
    """
    stores = Stores(new_store)

    def with_own(job: Callable[[Store], T]) -> T:
        return job(stores.here())

    pool = ThreadPoolExecutor(THREADS, "readonly-vm-transfer")
    waiting: deque[Future[T]] = deque()
    try:
        for job in jobs:
            waiting.append(pool.submit(with_own, job))
            if len(waiting) > THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        stores.close()
