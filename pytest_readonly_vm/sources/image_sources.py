"""Owns the way from what a user names as an image to a file on this computer: where it is, or in the store."""

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import astuple
from pathlib import Path

from pytest_readonly_vm.config.image_reference import ImageReference
from pytest_readonly_vm.config.image_url import ImageUrl
from pytest_readonly_vm.config.oci_reference import OciReference
from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.errors import ImageError, ImageWarning
from pytest_readonly_vm.host.once import OncePerKey
from pytest_readonly_vm.host.os_errors import host_errors
from pytest_readonly_vm.image.image_file import Fingerprint
from pytest_readonly_vm.sources.download.located import Downloaded, Located
from pytest_readonly_vm.sources.kept_disk import keep_disk
from pytest_readonly_vm.sources.store import ImageStore, default_folder
from pytest_readonly_vm.sources.unpack import is_packed, unpack

Transfer = Callable[[str, int, int | None], None]
"""Told what is transferred, how many bytes have gone, and how many there are if that is known."""


class ImageSources:
    """Finds images, and holds those of the store that were found until `close`. Any thread may ask."""

    def __init__(self, tell: Callable[[str], None], progress: Transfer) -> None:
        """`tell` is given a sentence when another process has to be waited for, `progress` how far a transfer is."""
        self._tell = tell
        self._progress = progress
        self._found: OncePerKey[tuple[Path | ImageReference, Path | None], Path] = OncePerKey()
        self._stores: OncePerKey[tuple[Path, int], ImageStore] = OncePerKey()
        self._held = ExitStack()

    def locate(self, image: Path | ImageReference, config: VmConfig, *, origin: str, qemu_img: Path) -> Path:
        """The file that is meant, which is brought here and unpacked first if it has to be.

        :param origin: where it was named, for messages.
        :raises ConfigurationError: there is no such image.
        :raises ImageError: it cannot be had, or is not what it should be.
        :raises HostError: something is not installed that it takes, or nothing can be kept.
        """
        return self._found.get((image, config.image_store), lambda: self._find(image, config, origin, qemu_img))

    def has(self, image: Path | ImageReference, config: VmConfig) -> bool:
        """Whether it can be had at once."""
        return (image, config.image_store) in self._found.made() or (isinstance(image, Path) and not _is_packed(image))

    def look(self, image: ImageReference, *, arch: str | None = None) -> Located:
        """What is to be known of an image that is elsewhere, which stays there; raises as `locate`.

        :param arch: which of several, by QEMU's name; this computer's, if None.
        """
        if isinstance(image.place, OciReference):
            from pytest_readonly_vm.sources.download.from_registry import locate_in_registry

            return locate_in_registry(image.place, arch=arch, warn=_warn)
        from pytest_readonly_vm.sources.download.from_url import locate  # which others are not to pay for

        assert isinstance(image.place, ImageUrl)
        return locate(image.place, warn=_warn)

    def close(self) -> None:
        """Give back what is held."""
        self._held.close()

    def _find(self, image: Path | ImageReference, config: VmConfig, origin: str, qemu_img: Path) -> Path:
        if isinstance(image, Path):
            return self._unpacked(image, config, origin, qemu_img) if _is_packed(image) else image
        return self._brought(image, config, origin, qemu_img)

    def _unpacked(self, path: Path, config: VmConfig, origin: str, qemu_img: Path) -> Path:
        shown = f"base image {path} (from {origin})"
        before = Fingerprint.of(path.stat())

        def make(folder: Path) -> Path:
            found = self._unpack(path, folder, config, shown, qemu_img)
            if before != Fingerprint.of(path.stat()):
                raise ImageError(f"{shown} was changed while it was unpacked; is it still being written?")
            return found

        return self._kept(f"file {astuple(before)}", make, config, shown)

    def _brought(self, image: ImageReference, config: VmConfig, origin: str, qemu_img: Path) -> Path:
        shown = f"base image {image.describe()} (from {origin})"
        place = image.place
        assert not isinstance(place, str)
        arch = None if config.arch == "auto" else config.arch
        if place.digest is None:
            there = self.look(image, arch=arch)
            place = place.pinned(there.digest, says=there.says)

        def taken(path: Path, folder: Path) -> Path:
            if _is_packed(path):
                found = self._unpack(path, folder, config, shown, qemu_img)
                path.unlink()
                return found
            limit = self._store(config).limit
            return keep_disk(path, folder, written=image.name, limit=limit, shown=shown, qemu_img=qemu_img)

        def make(folder: Path) -> Path:
            with self._downloaded(place, config, arch) as found:
                return taken(found.path, folder)

        if place.digest is not None:
            which = f" {arch}" if isinstance(place, OciReference) else ""
            return self._kept(f"{place.digest}{which}", make, config, shown)
        with self._downloaded(place, config, arch) as found:  # of which nobody knows the digest before
            return self._kept(str(found.sha256), lambda folder: taken(found.path, folder), config, shown)

    def _downloaded(
        self, place: ImageUrl | OciReference, config: VmConfig, arch: str | None
    ) -> AbstractContextManager[Downloaded]:
        store = self._store(config)
        folder, limit = store.downloads, store.limit
        if isinstance(place, ImageUrl):
            from pytest_readonly_vm.sources.download.from_url import downloaded

            return downloaded(place, folder, limit=limit, progress=self._progress, tell=self._tell, warn=_warn)
        from pytest_readonly_vm.sources.download.from_registry import downloaded_from_registry

        return downloaded_from_registry(
            place, folder, arch=arch, limit=limit, progress=self._progress, tell=self._tell, warn=_warn
        )

    def _unpack(self, path: Path, folder: Path, config: VmConfig, shown: str, qemu_img: Path) -> Path:
        def progress(done: int, size: int | None) -> None:
            self._progress(f"unpacking {path.name}", done, size)

        limit = self._store(config).limit
        return unpack(path, folder, limit=limit, shown=shown, qemu_img=qemu_img, progress=progress)

    def _kept(self, source: str, make: Callable[[Path], Path], config: VmConfig, shown: str) -> Path:
        with host_errors(f"{shown} cannot be kept"):
            found = self._store(config).get(source, make, shown=shown, on_wait=self._tell)
        self._held.callback(found.lock.release)
        return found.path

    def _store(self, config: VmConfig) -> ImageStore:
        folder = config.image_store or default_folder()
        limit = config.image_store_size
        return self._stores.get((folder, limit), lambda: ImageStore(folder, limit=limit))


def _is_packed(path: Path) -> bool:
    try:
        return is_packed(path)
    except OSError:  # of which whoever opens it tells
        return False


def _warn(sentence: str) -> None:
    warnings.warn(sentence, ImageWarning, stacklevel=3)
