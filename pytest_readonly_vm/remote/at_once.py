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


def at_once(new_store: Callable[[], Store], jobs: Iterable[Callable[[Store], T]]) -> Iterator[T]:
    """What the jobs return, in their order. They are taken from where they come as there is room for them.

    The first error ends it: no further job begins, and those under way, which have limits of their own, are waited for.
    """
    own, opened = threading.local(), deque[Store]()

    def with_own(job: Callable[[Store], T]) -> T:
        if not hasattr(own, "store"):
            own.store = new_store()
            opened.append(own.store)
        return job(own.store)

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
        for store in opened:
            store.close()
