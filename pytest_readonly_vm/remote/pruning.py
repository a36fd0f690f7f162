"""Owns what goes of the parcels in a folder: keys that nobody has pushed for long, then blobs to which no key leads.

A push or a fetch may be under way, and nobody can be asked. So the key goes first, to ``keys/KEY.pruned``, and its
blobs stay for a day, as those do that were written within one: a push that began before has its key there by then, and
one that begins later does not build upon what is old, but puts it there anew; see `is_recent`. Times are those of the
place's own clock. Whatever moment a kill comes at, what a key leads to is whole.
"""

import json
import re
import time
from collections.abc import Iterator
from typing import Any, Protocol

from pytest_readonly_vm.errors import RemoteError
from pytest_readonly_vm.remote.packing import digest_of
from pytest_readonly_vm.remote.parcel import is_key
from pytest_readonly_vm.remote.store import LARGEST_MANIFEST, LARGEST_SIGNATURE
from pytest_readonly_vm.remote.wire import ARTEFACT

GRACE = 24 * 3600.0
"""Seconds for which blobs stay. No fetch takes as long, and no push half of it."""
_LET_GO = ".pruned"
_CLOCK = "oci-layout"
_PARTIAL = re.compile(r"([0-9a-f]{64}(\.json|\.pruned)?)?\.[0-9a-f]{16}\.partial")
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


class Files(Protocol):
    """What it takes of `layout.Files`."""

    name: str

    def read(self, path: str, most: int) -> bytes | None: ...

    def size(self, path: str) -> int | None: ...

    def written(self, path: str) -> float | None: ...

    def write(self, path: str, data: bytes) -> None: ...

    def remove(self, path: str) -> None: ...

    def names(self, folder: str) -> list[str] | None: ...


def is_recent(files: Files, path: str) -> bool:
    """Whether nobody removes a file within the next half day, to whatever it belongs."""
    written = files.written(path)
    return written is not None and time.time() - written < GRACE / 2


class Pruning:
    """One prune of a folder with parcels."""

    def __init__(self, files: Files) -> None:
        """
        :raises RemoteError: it has none, or cannot be listed.
        """
        self._files = files
        names = files.names("keys")
        if names is None:
            raise RemoteError(f"{files.name}: nothing can be removed there: a web server is for reading alone")
        if not any(map(_key, names)):
            raise RemoteError(f"{files.name} has no frozen guests; nothing is removed")
        self._names = names
        files.write(_CLOCK, files.read(_CLOCK, LARGEST_SIGNATURE) or b'{"imageLayoutVersion": "1.0.0"}')
        self._now = files.written(_CLOCK) or 0.0

    def let_go(self, age: float) -> dict[str, float]:
        """Remove the keys that nobody has pushed for so many seconds, and say for how long nobody has.

        :raises RemoteError: one cannot be removed.
        """
        gone = {}
        for name in self._names:
            path, key = f"keys/{name}", _key(name)
            if key is None or not name.endswith(".json") or (unused := self._age(path)) is None or unused <= age:
                continue
            descriptor = self._files.read(path, LARGEST_SIGNATURE)
            if descriptor is not None and _is_ours(descriptor):
                self._files.write(f"keys/{key}{_LET_GO}", descriptor)
                self._files.remove(path)
                gone[key] = unused
        return gone

    def sweep(self) -> tuple[int, int, int]:
        """Remove the blobs to which no key leads, and what killed pushes have left.

        :returns: the number of keys, the bytes that are gone, and those that will be.
        :raises RemoteError: something cannot be read, so that it is not known which are wanted, or cannot be removed.
        """
        names = self._files.names("keys") or []  # anew: a push has had its key there since
        keys = [name for name in names if _key(name) and name.endswith(".json")]
        let_go = [name for name in names if _key(name) and name.endswith(_LET_GO)]
        young = [name for name in let_go if not self._is_old(f"keys/{name}")]
        wanted = {digits for name in keys for digits in self._used(f"keys/{name}")}
        soon = {digits for name in young for digits in self._used(f"keys/{name}")} - wanted
        freed, later = 0, sum(self._files.size(f"blobs/sha256/{digits}") or 0 for digits in soon)
        for path in self._unwanted(wanted | soon):
            size = self._files.size(path) or 0
            if self._is_old(path):
                self._files.remove(path)
                freed += size
            else:
                later += size
        for name in set(let_go) - set(young):
            self._files.remove(f"keys/{name}")
        return len(keys), freed, later

    def _unwanted(self, wanted: set[str]) -> Iterator[str]:
        for name in self._files.names("blobs/sha256") or []:
            if (is_key(name) and name not in wanted) or _PARTIAL.fullmatch(name):
                yield f"blobs/sha256/{name}"
        for name in self._files.names("keys") or []:
            if _PARTIAL.fullmatch(name):
                yield f"keys/{name}"

    def _used(self, path: str) -> set[str]:
        """The blobs of a parcel, by its descriptor; none if that has gone, or leads nowhere."""
        text = self._files.read(path, LARGEST_SIGNATURE)
        if text is None:
            return set()
        try:
            manifest = _digits(json.loads(text)["digest"])
            body = self._files.read(f"blobs/sha256/{manifest}", LARGEST_MANIFEST)
            if body is None:
                return set()
            if digest_of(body) != f"sha256:{manifest}":
                raise ValueError
            content = json.loads(body)
            parts = [content["config"], *content["layers"]]
            return {manifest, *(_digits(one["digest"]) for one in parts)}
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise RemoteError(
                f"{self._files.name}: {path} is damaged, so it is not known what it needs; no blob is removed. "
                "Remove that file, or push it anew"
            ) from None

    def _is_old(self, path: str) -> bool:
        age = self._age(path)
        return age is not None and age > GRACE

    def _age(self, path: str) -> float | None:
        written = self._files.written(path)
        return None if written is None else self._now - written


def _key(name: str) -> str | None:
    """The key of which a file tells."""
    key, _, kind = name.partition(".")
    return key if is_key(key) and kind in ("json", "pruned") else None


def _is_ours(descriptor: bytes) -> bool:
    try:
        found = json.loads(descriptor)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.get("artifactType") == ARTEFACT


def _digits(digest: Any) -> str:
    found = _DIGEST.fullmatch(digest)
    if found is None:
        raise ValueError
    return found[1]
