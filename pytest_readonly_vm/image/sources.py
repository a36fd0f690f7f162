"""Owns the way from what a user names as an image to a file on this computer: where it is, or in the store."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from pytest_readonly_vm.config.image_reference import ImageReference
from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.errors import ImageError
from pytest_readonly_vm.host.once import OncePerKey
from pytest_readonly_vm.image.store import ImageStore, StoredImage, default_folder

Transfer = Callable[[str, int, int | None], None]
"""Told what is transferred, how many bytes have gone, and how many there are if that is known."""


class ImageSources:
    """Finds images, and holds those of the store that were found until `close`. Any thread may ask."""

    def __init__(self, tell: Callable[[str], None], progress: Transfer) -> None:
        """`tell` is given a sentence when another process has to be waited for, `progress` how far a transfer is."""
        self._tell = tell
        self._progress = progress
        self._found: OncePerKey[str, Path] = OncePerKey()
        self._stores: OncePerKey[tuple[Path, int], ImageStore] = OncePerKey()
        self._held = ExitStack()

    def locate(self, image: Path | ImageReference, config: VmConfig, *, origin: str, qemu_img: Path) -> Path:
        """The file that is meant, which is brought here and unpacked first if it has to be.

        :param origin: where it was named, for messages.
        :raises ConfigurationError: there is no such image.
        :raises ImageError: it cannot be had, or is not what it should be.
        """
        if isinstance(image, Path):
            return image
        raise ImageError(f"{origin}: {image} cannot be downloaded")

    def has(self, image: Path | ImageReference) -> bool:
        """Whether it can be had at once."""
        return isinstance(image, Path) or image.written in self._found.made()

    def close(self) -> None:
        """Give back what is held."""
        self._held.close()

    def _hold(self, stored: StoredImage) -> Path:
        self._held.callback(stored.lock.release)
        return stored.path

    def _store(self, config: VmConfig) -> ImageStore:
        folder = config.image_store or default_folder()
        limit = config.image_store_size
        return self._stores.get((folder, limit), lambda: ImageStore(folder, limit=limit))
