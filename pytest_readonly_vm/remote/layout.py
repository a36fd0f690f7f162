"""Owns how parcels lie in a folder, wherever that is: an OCI image layout, and beside it a file for each key.

::

    oci-layout           what it is
    keys/KEY.json        the descriptor of a manifest, and its signature; appears as a whole, last of all
    keys/KEY.pruned      one that was let go of; its blobs stay for a day
    blobs/sha256/HEX     manifests, tables and packs
    index.json           the same descriptors in one file, for programs that know OCI, and where nothing can be listed

One index of all would lose a key when two write it at once, and object stores have no lock. So `keys` decides.
"""

import json
from typing import Any, Protocol

from pytest_readonly_vm.errors import RemoteError
from pytest_readonly_vm.remote.packing import digest_of
from pytest_readonly_vm.remote.parcel import is_key
from pytest_readonly_vm.remote.pruning import Pruning, is_recent
from pytest_readonly_vm.remote.store import LARGEST_MANIFEST, LARGEST_SIGNATURE, MOST_KEYS, Head, Pruned
from pytest_readonly_vm.remote.wire import ARTEFACT

_LARGEST_INDEX = 64 << 20
_SIGNATURE = "io.pytest-readonly-vm.signature"
_NAME = "org.opencontainers.image.ref.name"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class Files(Protocol):
    """Files by paths with slashes, below one folder. All raise `RemoteError`, within a bounded time."""

    name: str
    is_own: bool
    distrust: str

    def read(self, path: str, most: int) -> bytes | None:
        """At most so many bytes and one; None if there is no such file."""

    def size(self, path: str) -> int | None:
        """Bytes of a file; None if there is none."""

    def written(self, path: str) -> float | None:
        """When a file was last written, in seconds since the epoch, by the clock there; None if there is none."""

    def write(self, path: str, data: bytes) -> None:
        """A file that is there as a whole or as it was before."""

    def remove(self, path: str) -> None:
        """Have no such file there, if there is one."""

    def names(self, folder: str) -> list[str] | None:
        """What is in a folder, nothing if there is no such; None if that cannot be told."""

    def close(self) -> None: ...


class LayoutStore:
    """A `Store` of files."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self.name = files.name
        self.is_own = files.is_own
        self.distrust = files.distrust

    def keys(self) -> list[str]:
        names = self._files.names("keys")
        if names is None:
            return self._indexed()
        found = [name.removesuffix(".json") for name in names if name.endswith(".json")]
        return [key for key in found if is_key(key)][:MOST_KEYS]

    def head(self, key: str) -> Head | None:
        text = self._files.read(f"keys/{key}.json", LARGEST_SIGNATURE)
        if text is None:
            return None
        what = f"{self.name}: keys/{key[:12]}….json"
        try:
            found = json.loads(text)
            digest, signature = str(found["digest"]), found["annotations"].get(_SIGNATURE)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise RemoteError(f"{what} is no descriptor of a frozen guest") from None
        algorithm, _, digits = digest.partition(":")
        if algorithm != "sha256" or not is_key(digits):
            raise RemoteError(f"{what} names a manifest by {digest[:80]!r}, which is no digest of SHA-256")
        body = self._files.read(f"blobs/sha256/{digits}", LARGEST_MANIFEST)
        if body is None:
            raise RemoteError(f"{what} names a manifest that is not there")
        if digest_of(body) != digest:
            raise RemoteError(f"{what} names a manifest that is another than its digest says")
        return Head(body, signature if isinstance(signature, str) else None)

    def publish(self, key: str, head: Head) -> None:
        digest = digest_of(head.manifest)
        self.put(digest, head.manifest)
        if self._files.size("oci-layout") is None:
            self._files.write("oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        annotations = {_NAME: key} | ({_SIGNATURE: head.signature} if head.signature else {})
        descriptor = {
            "mediaType": _MANIFEST,
            "artifactType": ARTEFACT,
            "digest": digest,
            "size": len(head.manifest),
            "annotations": annotations,
        }
        self._files.write(f"keys/{key}.json", json.dumps(descriptor, sort_keys=True).encode())
        # Of two at the same time one may miss the other's, until the next push; then it is listed again.
        self._write_index([one for one in self._index() if _key_in(one) != key] + [descriptor])

    def renew(self, key: str) -> None:
        path = f"keys/{key}.json"
        if (text := self._files.read(path, LARGEST_SIGNATURE)) is not None:
            self._files.write(path, text)

    def prune(self, age: float) -> Pruned:
        if foreign := [one for one in self._index() if _key_in(one) is None]:
            raise RemoteError(
                f"{self.name} has images of others as well: its index.json names {json.dumps(foreign[0])[:150]}; "
                "nothing is removed, as it cannot be told what they need"
            )
        pruning = Pruning(self._files)
        gone = pruning.let_go(age)
        there = set(self.keys())
        if (listed := self._index()) and any(_key_in(one) not in there for one in listed):
            self._write_index([one for one in listed if _key_in(one) in there])
        return Pruned(gone, *pruning.sweep())

    def _indexed(self) -> list[str]:
        return [key for one in self._index() if (key := _key_in(one))][:MOST_KEYS]

    def _index(self) -> list[Any]:
        """What is in the index, also of others; nothing, if it is none."""
        text = self._files.read("index.json", _LARGEST_INDEX)
        try:
            return list(json.loads(text or b'{"manifests": []}')["manifests"])
        except (ValueError, LookupError, TypeError, RecursionError):
            return []

    def _write_index(self, manifests: list[Any]) -> None:
        index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests}
        self._files.write("index.json", json.dumps(index).encode())

    def has(self, digest: str, size: int) -> bool:
        return self._files.size(_place(digest)) == size

    def get(self, digest: str, size: int) -> bytes:
        found = self._files.read(_place(digest), size)
        if found is None:
            raise RemoteError(f"{self.name} has lost a part of the frozen guest: {digest} is not there")
        return found

    def put(self, digest: str, blob: bytes) -> bool:
        if self.has(digest, len(blob)) and is_recent(self._files, _place(digest)):
            return False
        self._files.write(_place(digest), blob)
        return True

    def close(self) -> None:
        self._files.close()


def _key_in(descriptor: Any) -> str | None:
    """The key of a parcel that an index lists; None for what others have there."""
    try:
        name = descriptor["annotations"][_NAME]
    except (LookupError, TypeError):
        return None
    return name if isinstance(name, str) and is_key(name) else None


def _place(digest: str) -> str:
    return digest.replace("sha256:", "blobs/sha256/")
