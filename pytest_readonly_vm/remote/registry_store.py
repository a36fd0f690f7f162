"""Owns parcels in a repository of an OCI registry: a tag for each key, and one for each signature.

A registry has nothing beside a manifest, so a signature is a manifest of its own, under a tag with the digest of what
is signed. It is there before: a key never leads to what has no signature yet. Its ``subject`` ties both together for
registries that know that.
"""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from pytest_readonly_vm.config.oci_reference import OciReference
from pytest_readonly_vm.errors import DownloadError, RemoteError
from pytest_readonly_vm.remote.packing import digest_of
from pytest_readonly_vm.remote.parcel import is_key
from pytest_readonly_vm.remote.store import LARGEST_MANIFEST, LARGEST_SIGNATURE, MOST_KEYS, Head, Pruned
from pytest_readonly_vm.remote.wire import ARTEFACT
from pytest_readonly_vm.sources.download.registry import MANIFESTS, Registry
from pytest_readonly_vm.sources.download.registry_blobs import RegistryBlobs
from pytest_readonly_vm.sources.download.tries import Interrupted
from pytest_readonly_vm.sources.download.web import Web

_SIGNATURE = "io.pytest-readonly-vm.signature"
_NOTHING = b"{}"


class RegistryStore:
    """A `Store` in a registry."""

    is_own = False
    distrust = ""

    def __init__(self, reference: OciReference) -> None:
        """
        :raises HostError: urllib3 is not installed.
        :raises RemoteError: nobody answers.
        """
        self.name = reference.name
        self._open = contextlib.ExitStack()
        insecure = reference.insecure or reference.is_of_loopback
        web = self._open.enter_context(Web(insecure=insecure, direct=reference.is_of_loopback))
        with _remote_errors():
            self._blobs = RegistryBlobs(web, Registry(web, reference))

    def keys(self) -> list[str]:
        with _remote_errors():
            found = []
            for tag in self._blobs.tags(_tags):
                if is_key(tag):
                    found.append(tag)
                if len(found) >= MOST_KEYS:
                    break
            return found

    def head(self, key: str) -> Head | None:
        with _remote_errors():
            body = self._blobs.manifest(key, LARGEST_MANIFEST)
            if body is None:
                return None
            return Head(body, _signature(self._blobs.manifest(_signature_tag(body), LARGEST_SIGNATURE)))

    def publish(self, key: str, head: Head) -> None:
        with _remote_errors():
            if head.signature is not None:
                nothing = _descriptor("application/vnd.oci.empty.v1+json", _NOTHING)
                self.put(nothing["digest"], _NOTHING)
                manifest = {
                    "schemaVersion": 2,
                    "mediaType": MANIFESTS[0],
                    "artifactType": f"{ARTEFACT}.signature",
                    "config": nothing,
                    "layers": [nothing],
                    "subject": _descriptor(MANIFESTS[0], head.manifest),
                    "annotations": {_SIGNATURE: head.signature},
                }
                self._blobs.put_manifest(_signature_tag(head.manifest), json.dumps(manifest).encode())
            self._blobs.put_manifest(key, head.manifest)

    def has(self, digest: str, size: int) -> bool:
        with _remote_errors():
            return self._blobs.has_blob(digest)

    def get(self, digest: str, size: int) -> bytes:
        with _remote_errors():
            found = self._blobs.blob(digest, size)
        if found is None:
            raise RemoteError(f"{self.name} has lost a part of the frozen guest: {digest} is not there")
        return found

    def put(self, digest: str, blob: bytes) -> bool:
        with _remote_errors():
            if self._blobs.has_blob(digest):
                return False
            self._blobs.put_blob(digest, blob)
            return True

    def renew(self, key: str) -> None:
        """What goes there is up to the registry."""

    def prune(self, age: float) -> Pruned:
        raise RemoteError(
            f"{self.name} is in a registry, which tidies up by itself: set a retention rule for its tags there, "
            "and have its garbage collection remove what no tag needs"
        )

    def close(self) -> None:
        self._open.close()


@contextlib.contextmanager
def _remote_errors() -> Iterator[None]:
    try:
        yield
    except (DownloadError, Interrupted) as error:
        raise RemoteError(str(error)) from None


def _tags(page: bytes) -> list[str]:
    try:
        return [str(tag) for tag in json.loads(page)["tags"] or []]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise DownloadError("the registry's list of tags is none") from None


def _signature(body: bytes | None) -> str | None:
    """That in a manifest; none, if it is something else. Nobody trusts it before it is verified."""
    try:
        found = json.loads(body or b"{}")["annotations"][_SIGNATURE]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return found if isinstance(found, str) else None


def _signature_tag(manifest: bytes) -> str:
    return f"{digest_of(manifest).replace(':', '-')}.signature"


def _descriptor(kind: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": kind, "digest": digest_of(content), "size": len(content)}
