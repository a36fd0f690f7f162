"""Owns how parcels lie in a folder, wherever that is: an OCI image layout, and beside it a file for each key.

::

    oci-layout           what it is
    keys/KEY.json        the descriptor of a manifest, and its signature; appears as a whole, last of all
    blobs/sha256/HEX     manifests, tables and packs
    index.json           the same descriptors in one file, for programs that know OCI, and where nothing can be listed

One index of all would lose a key when two write it at once, and object stores have no lock. So `keys` decides.
"""

import json
from collections.abc import Mapping
from typing import Any, Protocol

from pytest_readonly_vm.errors import RemoteError
from pytest_readonly_vm.remote.packing import digest_of
from pytest_readonly_vm.remote.parcel import is_key
from pytest_readonly_vm.remote.store import LARGEST_MANIFEST, LARGEST_SIGNATURE, MOST_KEYS, Head
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

    def write(self, path: str, data: bytes) -> None:
        """A file that is there as a whole or as it was before."""

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
            return [str(one["annotations"][_NAME]) for one in self._indexed()]
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
        others = [one for one in self._indexed() if one["annotations"][_NAME] != key]
        index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json"}
        self._files.write("index.json", json.dumps(index | {"manifests": [*others, descriptor]}).encode())

    def _indexed(self) -> list[Mapping[str, Any]]:
        text = self._files.read("index.json", _LARGEST_INDEX)
        try:
            found = json.loads(text or b'{"manifests": []}')["manifests"]
            return [one for one in found if is_key(one["annotations"][_NAME])][:MOST_KEYS]
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return []

    def has(self, digest: str, size: int) -> bool:
        return self._files.size(_place(digest)) == size

    def get(self, digest: str, size: int) -> bytes:
        found = self._files.read(_place(digest), size)
        if found is None:
            raise RemoteError(f"{self.name} has lost a part of the frozen guest: {digest} is not there")
        return found

    def put(self, digest: str, blob: bytes) -> None:
        if not self.has(digest, len(blob)):
            self._files.write(_place(digest), blob)

    def close(self) -> None:
        self._files.close()


def _place(digest: str) -> str:
    return digest.replace("sha256:", "blobs/sha256/")
