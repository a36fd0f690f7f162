"""Owns the way from what a user names as an image to a file on this computer: where it is, or in the store."""

import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import astuple, dataclass
from pathlib import Path, PurePath

from pytest_readonly_vm.config.image_reference import ImageReference
from pytest_readonly_vm.config.image_url import ImageUrl
from pytest_readonly_vm.config.network_image import NetworkImage
from pytest_readonly_vm.config.oci_reference import OciReference
from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.errors import DownloadError, ImageError, ImageWarning
from pytest_readonly_vm.host.loop import LoopThread
from pytest_readonly_vm.host.once import OncePerKey
from pytest_readonly_vm.host.os_errors import host_errors
from pytest_readonly_vm.host.qemu_binary import arch_of_emulator, host_arch
from pytest_readonly_vm.host.stopwatch import Part, Stopwatch
from pytest_readonly_vm.host.watch import Show, Watch, nobody
from pytest_readonly_vm.image.image_file import Fingerprint
from pytest_readonly_vm.image.network_file import NetworkFile
from pytest_readonly_vm.sources.download.located import Downloaded, Located
from pytest_readonly_vm.sources.kept_disk import keep_disk
from pytest_readonly_vm.sources.store import ImageStore, StoredImage, default_folder
from pytest_readonly_vm.sources.unpack import is_packed, unpack

_PAUSE = 0.2
"""Seconds between two lines that tell how far a transfer is."""

Place = ImageUrl | OciReference
_Key = tuple[Path | ImageReference, str | None, Path | None]
"""An image as it was named, which of several there it is, and the store."""


class ImageSources:
    """Finds images, and holds those of the store that were found until `close`. Any thread may ask."""

    def __init__(
        self,
        tell: Callable[[str], None],
        watch: Watch = nobody,
        stopwatch: Stopwatch | None = None,
        loop: Callable[[], LoopThread] | None = None,
    ) -> None:
        """`tell` is given a sentence when another process has to be waited for.

        `watch` looks on while an image is downloaded or unpacked; `stopwatch` measures who waits for that. What stays
        on the network is read on `loop`.
        """
        self._loop = loop or self._own_loop
        self._own_loops: OncePerKey[None, LoopThread] = OncePerKey()
        self._tell = tell
        self._watch = watch
        self._stopwatch = stopwatch or Stopwatch()
        self._found: OncePerKey[_Key, Path] = OncePerKey()
        self._stores: OncePerKey[tuple[Path, int], ImageStore] = OncePerKey()
        self._refused: dict[tuple[_Key, int, object], tuple[type[ImageError], str]] = {}
        self._connected: set[NetworkImage] = set()
        self._unserved: dict[NetworkImage, str] = {}
        self._held = ExitStack()

    def locate(self, image: Path | ImageReference, config: VmConfig, *, origin: str, qemu_img: Path) -> Path:
        """The file that is meant, which is brought here and unpacked first if it has to be.

        :param origin: where it was named, for messages.
        :raises DownloadError: it cannot be had, now or earlier in this run: that is not tried for each test.
        :raises ImageError: it is not what it should be, now or earlier in this run.
        :raises HostError: something is not installed that it takes, or nothing can be kept.
        """
        return self._found.get(_key(image, config), lambda: self._find(image, config, origin, qemu_img))

    def connect(
        self, image: NetworkImage, config: VmConfig, *, format: str | None, shown: str, qemu_img: Path
    ) -> NetworkFile:
        """An image that stays on the network, to be read there by whoever asks, who closes it.

        :param shown: what it is, and who has named it.
        :raises DownloadError: its server does not give it, now or earlier in this run.
        :raises ImageError: it cannot be used so.
        :raises BaseImageLost: its server stopped answering.
        :raises HostError: something is not installed that it takes.
        """
        from pytest_readonly_vm.sources.network.opening import open_network_image  # which few are to load

        if image in self._unserved:
            raise DownloadError(f"{shown}: not tried again in this run: {self._unserved[image]}")
        try:
            with self._stopwatch.part(Part.IMAGES):
                found = open_network_image(
                    image,
                    self._loop(),
                    format=format,
                    shown=shown,
                    patience=config.image_timeout,
                    reads_all=config.verify == "hash",
                    qemu_img=qemu_img,
                    warn=_warn,
                )
        except DownloadError as error:
            self._unserved[image] = str(error)
            raise
        self._connected.add(image)
        return found

    def _own_loop(self) -> LoopThread:
        def start() -> LoopThread:
            loop = LoopThread()
            self._held.callback(loop.close)
            return loop

        return self._own_loops.get(None, start)

    def has(self, image: Path | ImageReference, config: VmConfig) -> bool:
        """Whether it can be had at once."""
        if isinstance(image, ImageReference) and isinstance(image.place, NetworkImage):
            return image.place in self._connected
        return _key(image, config) in self._found.made() or (isinstance(image, Path) and not _is_packed(image))

    def is_kept(self, image: Path | ImageReference, config: VmConfig) -> bool | None:
        """Whether the store has it; None where it is used as it is, or nobody says without the network which it is."""
        if isinstance(image, Path) and not _is_packed(image):
            return None
        if isinstance(image, ImageReference) and isinstance(image.place, NetworkImage):
            return None
        source = _source(image, arch_of(image, config))
        if source is None:
            return None
        return _folder(config).exists() and self._store(config).has(source)  # looking makes no folder

    def close(self) -> None:
        """Give back what is held."""
        self._held.close()

    def _find(self, image: Path | ImageReference, config: VmConfig, origin: str, qemu_img: Path) -> Path:
        if isinstance(image, Path) and not _is_packed(image):
            return image
        if isinstance(image, ImageReference) and isinstance(image.place, NetworkImage):
            raise ImageError(f"{image} (from {origin}) stays on the network: there is nothing to be brought here")
        store = self._store(config)
        shown = f"base image {image if isinstance(image, Path) else image.describe()} (from {origin})"
        with (
            self._stopwatch.part(Part.IMAGES),
            self._watch(False) as show,
            host_errors(f"{shown} cannot be kept"),
        ):
            bringing = _Bringing(store, shown, arch_of(image, config), qemu_img, self._tell, show)
            found = self._brought(image, bringing, _key(image, config))
        self._held.callback(found.lock.release)
        return found.path

    def _store(self, config: VmConfig) -> ImageStore:
        folder, limit = _folder(config), config.image_store_size
        return self._stores.get((folder, limit), lambda: ImageStore(folder, limit=limit))

    def _brought(self, image: Path | ImageReference, bringing: "_Bringing", key: "_Key") -> StoredImage:
        # A file that was written since may be sound now, and a larger limit may let in what was too large.
        refused = key, bringing.store.limit, Fingerprint.of(image.stat()) if isinstance(image, Path) else None
        if refused in self._refused:
            kind, why = self._refused[refused]
            raise kind(f"{bringing.shown}{why}")
        try:
            return bringing.unpacked(image) if isinstance(image, Path) else bringing.brought(image)
        except ImageError as error:
            if str(error).startswith(bringing.shown):  # of what it is, which it stays
                self._refused[refused] = type(error), str(error).removeprefix(bringing.shown)
                raise
            self._refused[refused] = type(error), f": not tried again in this run: {error}"
            raise type(error)(f"{bringing.shown}: {error}") from None


def _key(image: Path | ImageReference, config: VmConfig) -> _Key:
    return image, arch_of(image, config), config.image_store


def arch_of(image: Path | ImageReference, config: VmConfig) -> str | None:
    """For which processor an image is to be, by QEMU's name, where one name may have several, as in registries.

    That of ``arch``, or of the emulator ``qemu``, or else this computer's: nobody can look at the disk before.
    """
    if isinstance(image, Path) or not isinstance(image.place, OciReference):
        return None
    if config.arch != "auto":
        return config.arch
    return arch_of_emulator(config.qemu) if config.qemu else host_arch()


def look(image: ImageReference, *, arch: str | None = None, algorithm: str | None = None) -> Located:
    """What is to be known of an image that is elsewhere, which stays there; raises as `ImageSources.locate`.

    :param arch: which of several, by QEMU's name; this computer's, if None.
    :param algorithm: of what kind its digest is to be, if a URL is looked at to compare it; it may have none then.
    """
    # These load urllib3, which others are not to pay for.
    if isinstance(image.place, OciReference):
        from pytest_readonly_vm.sources.download.from_registry import locate_in_registry

        return locate_in_registry(image.place, arch=arch, warn=_warn)
    from pytest_readonly_vm.sources.download.from_url import locate

    if isinstance(image.place, NetworkImage):
        raise ImageError(
            f"{image} stays on the network, and is looked at when a machine starts from it; write its url into "
            "vm-images.toml yourself"
        )
    assert isinstance(image.place, ImageUrl)
    return locate(image.place, algorithm=algorithm, warn=_warn)


def _warn(sentence: str) -> None:
    warnings.warn(sentence, ImageWarning, stacklevel=3)


@dataclass(slots=True)
class _Bringing:
    """One image on its way into the store."""

    store: ImageStore
    shown: str
    arch: str | None
    qemu_img: Path
    tell: Callable[[str], None]
    show: Show | None
    warn: Callable[[str], object] = _warn
    told: float = 0.0
    """When it was shown last how far it is."""

    def unpacked(self, path: Path) -> StoredImage:
        before = Fingerprint.of(path.stat())

        def make(folder: Path) -> Path:
            found = self._unpack(path, folder, str(path))
            if before != Fingerprint.of(path.stat()):
                raise ImageError(f"{self.shown} was changed while it was unpacked; is it still being written?")
            return found

        return self._kept(_source_of_file(before), make)

    def brought(self, image: ImageReference) -> StoredImage:
        place, name = image.place, image.name
        assert isinstance(place, ImageUrl | OciReference)
        if place.digest is None:
            there = look(image, arch=self.arch)
            place = place.pinned(there.digest, says=there.says)
            self.warn = lambda sentence: None  # once is enough

        def make(folder: Path) -> Path:
            with self._downloaded(place) as found:
                return self._taken(found.path, folder, name)

        if place.digest is not None:
            return self._kept(_source_of(place, self.arch), make)
        with self._downloaded(place) as found:  # of which nobody knows the digest before
            return self._kept(str(found.sha256), lambda folder: self._taken(found.path, folder, name))

    def _taken(self, path: Path, folder: Path, name: str) -> Path:
        if not _is_packed(path):
            limit = self.store.limit
            return keep_disk(path, folder, written=name, limit=limit, shown=self.shown, qemu_img=self.qemu_img)
        found = self._unpack(path, folder, name)
        path.unlink()
        return found

    def _downloaded(self, place: Place) -> AbstractContextManager[Downloaded]:
        folder, limit = self.store.downloads, self.store.limit
        if isinstance(place, ImageUrl):
            from pytest_readonly_vm.sources.download.from_url import downloaded

            return downloaded(place, folder, limit=limit, progress=self._progress, tell=self.tell, warn=self.warn)
        from pytest_readonly_vm.sources.download.from_registry import downloaded_from_registry

        return downloaded_from_registry(
            place, folder, arch=self.arch, limit=limit, progress=self._progress, tell=self.tell, warn=self.warn
        )

    def _unpack(self, path: Path, folder: Path, name: str) -> Path:
        def progress(done: int, size: int | None) -> None:
            self._progress(f"unpacking {PurePath(name).name}", done, size)

        limit, qemu_img = self.store.limit, self.qemu_img
        return unpack(path, folder, limit=limit, shown=self.shown, qemu_img=qemu_img, name=name, progress=progress)

    def _progress(self, what: str, done: int, size: int | None) -> None:
        now = time.monotonic()
        if self.show is not None and now - self.told >= _PAUSE:
            self.told = now
            self.show(f"{what}: {done >> 20}{f' of {size >> 20}' if size else ''} MiB")

    def _kept(self, source: str, make: Callable[[Path], Path]) -> StoredImage:
        return self.store.get(source, make, shown=self.shown, on_wait=self.tell)


def _folder(config: VmConfig) -> Path:
    return config.image_store or default_folder()


def _source(image: Path | ImageReference, arch: str | None) -> str | None:
    """By what the store knows what is made of an image; None if that takes the network."""
    if isinstance(image, Path):
        return _source_of_file(Fingerprint.of(image.stat()))
    assert isinstance(image.place, ImageUrl | OciReference)
    return _source_of(image.place, arch) if image.place.digest else None


def _source_of_file(fingerprint: Fingerprint) -> str:
    return f"file {astuple(fingerprint)}"


def _source_of(place: Place, arch: str | None) -> str:
    return f"{place.digest}{f' {arch}' if arch else ''}"


def _is_packed(path: Path) -> bool:
    try:
        return is_packed(path)
    except OSError:  # of which whoever opens it tells
        return False
