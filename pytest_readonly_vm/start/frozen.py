"""Owns what is frozen in one run, templates and clusters: each is had once, by a boot or from the cache."""

import threading
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from typing import Generic, Protocol, TypeVar

from pytest_readonly_vm.host.stopwatch import Part, Stopwatch
from pytest_readonly_vm.image.contents import ContentDigests
from pytest_readonly_vm.start.archive import Archive


class Frozen(Protocol):
    """A template, or a cluster."""

    def difference(self) -> str | None:
        """What happened to its files since, or None."""

    def close(self) -> None: ...


F = TypeVar("F", bound=Frozen)


class FrozenOnes(Generic[F]):
    """Those of a run, by their keys. Several threads may ask at once."""

    def __init__(self, stopwatch: Stopwatch) -> None:
        self.digests = ContentDigests()
        self._stopwatch = stopwatch
        self._made: dict[str, F] = {}
        self._loaded: set[str] = set()
        self._distrusted: list[F] = []  # not closed yet, as another thread may be using one at this moment
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def __contains__(self, key: str) -> bool:
        return key in self._made

    def known(self, key: str) -> F | None:
        """One that is there by now."""
        return self._made.get(key)

    def get(
        self,
        key: str,
        archive: Callable[[], Archive | None],
        *,
        patience: float,
        is_current: Callable[[F], bool],
        load: Callable[[Archive], F | None],
        make: Callable[[], F],
        save: Callable[[Archive, F], None],
        part: Part,
    ) -> F:
        """One that is known and current, else that of an earlier run, else one made now.

        :param archive: what earlier runs have left and later ones get, if there is such a thing for this one.
        :param patience: seconds for which another process that makes the same is waited for.
        :param part: to what the time counts in which one is made.
        """
        with ExitStack() as held:
            if not self._locks[key].acquire(blocking=False):  # another thread is making it
                with self._stopwatch.part(part):
                    self._locks[key].acquire()
            held.callback(self._locks[key].release)
            if (known := self._made.get(key)) is not None:
                if is_current(known):
                    return known
                self._distrusted.append(self._made.pop(key))
            if (kept := archive()) is not None:
                with self._stopwatch.part(Part.OTHERS):
                    is_ours = held.enter_context(kept.lock(key, patience=patience))
                kept = kept if is_ours else None
            if kept is not None and (loaded := load(kept)) is not None:
                self._loaded.add(key)
                self._made[key] = loaded
                return loaded
            with self._stopwatch.part(part):
                made = self._made[key] = make()
                if kept is not None:
                    save(kept, made)
            return made

    def distrust(self, key: str, archive: Archive | None) -> bool:
        """Forget what is from an earlier run, here and there, and say whether it was."""
        with self._locks[key]:
            if key not in self._loaded:
                return False
            self._loaded.discard(key)
            if archive is not None:
                archive.remove(key)
            if (one := self._made.pop(key, None)) is not None:
                self._distrusted.append(one)
            return True

    def take_changed(self) -> list[str]:
        """What happened to files of frozen ones since; such a one is not used any more."""
        changed = {key: found for key, one in list(self._made.items()) if (found := one.difference())}
        for key in changed:
            self._distrusted.append(self._made.pop(key))
        return list(changed.values())

    def close(self) -> None:
        for one in (*self._made.values(), *self._distrusted):
            one.close()
        self._made.clear()
        self._distrusted.clear()
