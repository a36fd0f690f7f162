"""Owns the way from an image in an OCI registry to a file: through index and manifest, to the blob that has the disk.

Two kinds of images are disks. KubeVirt's containerdisks have it as a file below ``/disk`` in a layer:
https://kubevirt.io/user-guide/storage/disks_and_volumes/#containerdisk. Artefacts are one blob, which is the disk.
"""

import contextlib
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_readonly_vm.config.digest import Digest
from pytest_readonly_vm.config.oci_reference import OciReference
from pytest_readonly_vm.errors import DownloadError
from pytest_readonly_vm.sources.download.disk_layer import Above, take_disk
from pytest_readonly_vm.sources.download.located import Downloaded, Located
from pytest_readonly_vm.sources.download.part_file import Version
from pytest_readonly_vm.sources.download.registry import INDEXES, MANIFESTS, Manifest, Registry
from pytest_readonly_vm.sources.download.transfer import Progress, Transferred, Wanted, transferred
from pytest_readonly_vm.sources.download.web import Web

_ARCHITECTURES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "i386": "386",
    "i686": "386",
    "arm": "arm",
    "armv7l": "arm",
    "ppc64": "ppc64le",
    "loongarch64": "loong64",
}
"""What Go calls them, where that differs from what the kernel and QEMU do."""
_LAYERS = ("application/vnd.oci.image.layer.", "application/vnd.docker.image.rootfs.")
_NOTHING = "application/vnd.oci.empty.v1+json"
_TITLE = "org.opencontainers.image.title"


@dataclass(frozen=True, slots=True)
class Blob:
    """A piece of an image, as its manifest has it."""

    digest: Digest
    size: int
    kind: str
    """Its media type."""
    title: str | None
    """The name of the file that it is, in an artefact."""


@dataclass(frozen=True, slots=True)
class _Image:
    located: Located
    blobs: tuple[Blob, ...]
    is_artefact: bool


def locate_in_registry(reference: OciReference, *, arch: str | None, warn: Callable[[str], object]) -> Located:
    """What is to be known of an image without downloading it; its digest is what the tag leads to by now.

    :param arch: which of several, by QEMU's name; this computer's, if None.
    :raises DownloadError: there is none, or none that is a disk.
    :raises ConfigurationError: what the user has kept of passwords cannot be used.
    :raises HostError: there is no urllib3.
    """
    with _web(reference) as web:
        return _resolve(_registry(web, reference, warn), reference, arch).located


@contextlib.contextmanager
def downloaded_from_registry(
    reference: OciReference,
    folder: Path,
    *,
    arch: str | None,
    limit: int,
    progress: Progress,
    tell: Callable[[str], object],
    warn: Callable[[str], object],
) -> Iterator[Downloaded]:
    """The disk, for as long as the context lasts; after it, nothing of it is left that was not moved.

    :param limit: bytes that the disk, and what it comes in, may have at most.
    :raises ImageError: the image cannot be had, or is no disk.
    :raises OutOfSpace: the folder has no room for it.
    :raises ConfigurationError: what the user has kept of passwords cannot be used.
    :raises HostError: as `transferred`.
    """
    with _web(reference) as web:
        registry = _registry(web, reference, warn)
        image = _resolve(registry, reference, arch)

        def blob(one: Blob) -> contextlib.AbstractContextManager[Transferred]:
            wanted = Wanted(
                url=registry.blob_url(one.digest),
                name=one.title or str(reference),
                digest=one.digest,
                says="the manifest",
                size=one.size,
                limit=limit,
            )
            return transferred(web, wanted, folder, credentials=registry, progress=progress, tell=tell)

        if image.is_artefact:
            with blob(image.blobs[0]) as found:
                yield Downloaded(found.path, found.sha256, image.located)
                found.path.unlink(missing_ok=True)
            return
        above = Above()
        for layer in reversed(image.blobs):  # what is in a later one hides what is in those before
            with blob(layer) as found:
                disk = take_disk(found.path, folder, above, what=str(reference), limit=limit)
                if disk is not None:
                    try:
                        yield Downloaded(disk.path, disk.sha256, image.located)
                    finally:
                        disk.path.unlink(missing_ok=True)
                found.path.unlink(missing_ok=True)
            if disk is not None:
                return
            if above.hides_all:
                break
        raise DownloadError(f"{reference} has no disk: there is no file in the folder /disk of any of its layers")


def _web(reference: OciReference) -> Web:
    is_here = reference.is_of_loopback
    return Web(insecure=reference.insecure or is_here, direct=is_here)


def _registry(web: Web, reference: OciReference, warn: Callable[[str], object]) -> Registry:
    registry = Registry(web, reference)
    if not registry.is_secure and not reference.is_of_loopback:
        change = "" if reference.digest else ", and change it"
        warn(f"{reference} comes by http, so anybody on the way can read it{change}")
    return registry


def _resolve(registry: Registry, reference: OciReference, arch: str | None) -> _Image:
    first = registry.manifest(reference.digest or reference.tag or "latest")
    manifest = first
    if manifest.kind in INDEXES:
        manifest = registry.manifest(_chosen(manifest, reference, arch or platform.machine()))
    if manifest.kind not in MANIFESTS:
        raise DownloadError(f"{reference} is no image with layers, but {manifest.kind or 'of no kind that it says'}")
    blobs = [_blob(one, reference) for one in _list(manifest.content, "layers")]
    blobs = [one for one in blobs if one.kind != _NOTHING]
    files = [one for one in blobs if one.title is not None or not one.kind.startswith(_LAYERS)]
    if len(files) > 1:
        names = ", ".join(one.title or f"{one.digest} ({one.kind})" for one in files)
        raise DownloadError(f"{reference} has several files, and which one is the disk cannot be told: {names}")
    if not blobs:
        raise DownloadError(f"{reference} is empty")
    size = sum(one.size for one in files or blobs)
    located = Located(first.digest, "the registry", size, Version())
    return _Image(located, tuple(files or blobs), bool(files))


def _chosen(index: Manifest, reference: OciReference, arch: str) -> Digest:
    """The digest of the one in an index that is for an architecture."""
    wanted = _ARCHITECTURES.get(arch, arch)
    entries = [entry for entry in _list(index.content, "manifests") if isinstance(entry, dict)]
    of = {id(entry): _architecture(entry) for entry in entries}
    found = [entry for entry in entries if of[id(entry)] == wanted]
    if not found and len(entries) == 1 and of[id(entries[0])] is None:
        found = entries
    if len(found) == 1:
        return _digest(found[0], reference)
    if found:
        digests = ", ".join(str(_digest(entry, reference)) for entry in found)
        raise DownloadError(f"{reference} has several images for {arch}; write one behind it, after @: {digests}")
    known = ", ".join(sorted({one for one in of.values() if one and one != "unknown"})) or "none"
    raise DownloadError(f"{reference} has no image for {arch} ({wanted}); those that it has are for: {known}")


def _architecture(entry: Mapping[str, Any]) -> str | None:
    found = entry.get("platform")
    return str(found.get("architecture")) if isinstance(found, dict) else None


def _blob(written: object, reference: OciReference) -> Blob:
    size = written.get("size") if isinstance(written, dict) else None
    if not isinstance(written, dict) or not isinstance(size, int) or size < 0:
        raise DownloadError(f"{reference} has a manifest that cannot be read: a layer has no size")
    annotations = written.get("annotations")
    title = annotations.get(_TITLE) if isinstance(annotations, dict) else None
    return Blob(
        _digest(written, reference), size, str(written.get("mediaType", "")), title if isinstance(title, str) else None
    )


def _digest(written: Mapping[str, Any], reference: OciReference) -> Digest:
    try:
        return Digest.parse(str(written.get("digest")))
    except ValueError as error:
        raise DownloadError(f"{reference} has a manifest that cannot be read: {error}") from None


def _list(content: Mapping[str, Any], key: str) -> Sequence[object]:
    found = content.get(key)
    return found if isinstance(found, list) else ()
