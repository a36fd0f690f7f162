"""Owns what a guest itself tells of what has changed of its files, beside what a copy of it as it was had told."""

import os
from collections.abc import Callable, Iterator

from pytest_readonly_vm.errors import VmError
from pytest_readonly_vm.guest.guest import Guest
from pytest_readonly_vm.guest.listing import Listed, digests, listing
from pytest_readonly_vm.machine.baseline import Baseline
from pytest_readonly_vm.machine.changes import Aspect, Change, Content
from pytest_readonly_vm.machine.one_file import (
    DIRECTORY,
    FILE,
    KIND,
    LINK,
    MOST_AFTER,
    MOST_BEFORE,
    common_aspects,
    has_content,
    told,
)


def changes_from_inside(guest: Guest, baseline: Baseline, place: bytes) -> Iterator[tuple[bytes, Change]]:
    """What is different on the file system that is mounted at a place, with the paths.

    :raises GuestLacks: the guest has no program that lists files with what they are.
    """
    was = baseline.listing(place)
    now = listing(guest, place)
    candidates = [
        path
        for path, old in was.items()
        if (new := now.get(path)) is not None
        and old.moment != new.moment
        and old.mode & KIND == new.mode & KIND != DIRECTORY
    ]
    to_read = [path for path in candidates if was[path].mode & KIND != FILE or was[path].size == now[path].size]
    another: set[bytes] = set()
    if to_read:
        with baseline.copy() as copy:
            before = digests(copy, to_read)
        after = digests(guest, to_read)
        another = {path for path, one, other in zip(to_read, before, after, strict=True) if one != other}

    def aspects(path: bytes) -> Callable[[Listed, Listed], list[Aspect]]:
        def found(old: Listed, new: Listed) -> list[Aspect]:
            kind = new.mode & KIND
            if old.mode & KIND != kind:
                return ["type", *common_aspects(old, new)]
            first: list[Aspect] = []
            if path in another or (kind == FILE and old.size != new.size):
                first = ["content" if kind == FILE else "target" if kind == LINK else "device"]
            return [*first, *common_aspects(old, new)]

        return found

    for path in {**was, **now}:
        old, new = was.get(path), now.get(path)
        if old is not None and new is not None and old.moment == new.moment:
            continue
        read_before = _reading_copy(baseline, path, old) if old is not None else None
        read_after = _reading(guest, path, new) if new is not None else None
        if (change := told(path, old, new, aspects(path), read_before, read_after)) is not None:
            yield path, change


def _reading_copy(baseline: Baseline, path: bytes, one: Listed) -> Content | None:
    def read() -> bytes:
        baseline.check_is_open()
        with baseline.copy() as copy:
            return _read(copy, path, one, MOST_BEFORE)

    return read if has_content(one.mode) else None


def _reading(guest: Guest, path: bytes, one: Listed) -> Content | None:
    return (lambda: _read(guest, path, one, MOST_AFTER)) if has_content(one.mode) else None


def _read(guest: Guest, path: bytes, one: Listed, most: int) -> bytes:
    if one.mode & KIND == LINK:
        return guest.run(["readlink", os.fsdecode(path)]).stdout_bytes.removesuffix(b"\n")
    if one.size > most:
        raise VmError(f"it has {one.size} bytes, and at most {most} are read")
    return guest.read_bytes(os.fsdecode(path))
