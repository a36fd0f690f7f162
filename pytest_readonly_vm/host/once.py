"""Owns the making of things once, by whichever thread asks first. Knows nothing of the things."""

import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class OncePerKey(Generic[K, T]):
    """A thing for each key, made when it is first asked for.

    Threads that ask for the same one wait until it is there, and nobody waits for another's. What could not be made is
    tried again for who asks next. Who makes one may ask for others, as long as none of these asks back.
    """

    def __init__(self) -> None:
        self._made: dict[K, T] = {}
        self._making: dict[K, threading.RLock] = {}
        self._lock = threading.RLock()  # as a signal's handler may ask for what its own thread is making

    def get(self, key: K, make: Callable[[], T]) -> T:
        """What there is for a key, made now if there is none."""
        with self._lock:
            making = self._making.setdefault(key, threading.RLock())
        with making:
            if key not in self._made:
                self._made[key] = make()
            return self._made[key]

    def made(self) -> dict[K, T]:
        """All that there is so far."""
        return self._made.copy()
