"""Owns the base images of a run: each is opened once, and proved when a test has ended."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from pytest_readonly_vm.config.disk import Disk
from pytest_readonly_vm.config.image_reference import ImageReference
from pytest_readonly_vm.config.network_image import NetworkImage
from pytest_readonly_vm.config.settings import FILES, VmConfig
from pytest_readonly_vm.errors import BaseImageChanged, BaseImageLost, ConfigurationError, ImageError
from pytest_readonly_vm.host.cleanup import Cleanup
from pytest_readonly_vm.host.once import OncePerKey
from pytest_readonly_vm.host.writers import WriteWatch
from pytest_readonly_vm.image.base import BaseImage, open_base, open_chain
from pytest_readonly_vm.image.disk_formats import UNFREEZABLE
from pytest_readonly_vm.image.image_file import ImageFile
from pytest_readonly_vm.image.network_file import ChainFile, NetworkFile, NetworkFingerprint, Where


class Sources(Protocol):
    """Who finds images; see `ImageSources`."""

    def locate(self, image: Path | ImageReference, config: VmConfig, *, origin: str, qemu_img: Path) -> Path:
        """The file that is meant."""

    def connect(
        self, image: NetworkImage, config: VmConfig, *, format: str | None, shown: str, qemu_img: Path
    ) -> NetworkFile:
        """One that stays on the network."""

    def has(self, image: Path | ImageReference, config: VmConfig) -> bool:
        """Whether it can be had at once."""

    def close(self) -> None:
        """Give back what is held."""


_READ_WHOLE = tuple(name for name in FILES if name not in ("image", "cdrom"))
"""The settings that name a file which is no disk."""


class Compare(Protocol):
    """Who looks whether an image is what it is elsewhere, before a machine starts with it."""

    def __call__(self, setting: str, image: Path | ImageReference, origin: str, files: Sequence[ChainFile], /) -> None:
        """Called before each machine that starts with it; raises `ImageError` to have it refused.

        :param setting: by which it was given: ``kernel``, say, or ``disks data`` for the disk of that name.
        :param files: its chain.
        """


class Bases:
    """Those that machines were started from so far. Any thread may ask."""

    def __init__(self, sources: Sources, compare: Compare | None = None) -> None:
        """`sources` finds what is not here yet."""
        self._sources = sources
        self._compare = compare
        self._compared: OncePerKey[tuple[str, Path, str], None] = OncePerKey()
        self._opened: OncePerKey[tuple[Path | ImageReference, str | None, str | None], BaseImage] = OncePerKey()
        self._parts: OncePerKey[tuple[tuple[Path, str], ...], BaseImage] = OncePerKey()
        self._watched: set[BaseImage] = set()
        self._lost: set[BaseImage] = set()
        self._digests: OncePerKey[BaseImage, tuple[str, ...]] = OncePerKey()

    def get(self, config: VmConfig, *, qemu_img: Path) -> tuple[BaseImage | None, BaseImage | None]:
        """The base and the CD of a configuration, each None if it has none. An image that is a CD is no base.

        :raises ConfigurationError: both the image and the setting for a CD are CDs, or it has no disk to keep.
        :raises ImageError: one is refused.
        :raises BaseImageChanged: one was found changed earlier in this run.
        """
        if self._compare is not None:
            self._compare_parts(config)
        base = self._get(config.image, config, "image", format=config.format, called="base image", qemu_img=qemu_img)
        cdrom = self._get(config.cdrom, config, "cdrom", format="raw", called="CD", qemu_img=qemu_img)
        if cdrom is not None and not cdrom.is_cd:
            raise ImageError(
                f"CD {config.cdrom} (from {config.origin('cdrom')}) is not the image of a CD or DVD; a disk is given "
                "by --vm-image"
            )
        if base is not None and base.virtual_size is not None and config.keep != "never":
            raise ConfigurationError(
                f"{config.origin('keep')}: keep={config.keep} needs a base that is a file of this computer, and "
                f"{base.path} stays on the network; VirtualDisk.export writes a disk that stands alone"
            )
        if base is None or config.format is not None or not base.is_cd:
            return base, cdrom
        if cdrom is not None:
            raise ConfigurationError(
                f"{config.origin('cdrom')}: cdrom: the image {config.image} is a CD as well, and a machine has one "
                "drive; give a disk as the image, or none"
            )
        if config.keep != "never":
            raise ConfigurationError(
                f"{config.origin('keep')}: keep={config.keep} needs a disk, and the image {config.image} is a CD"
            )
        return None, base

    def get_disk(self, disk: Disk, config: VmConfig, *, qemu_img: Path) -> BaseImage | None:
        """The image of a further disk; None for a blank one. Raises as `get`."""
        assert not isinstance(disk.image, str)  # which is read with the setting
        called, setting = f"image of the disk {disk.name}", f"disks {disk.name}"
        return self._get(disk.image, config, setting, format=disk.format, called=called, qemu_img=qemu_img)

    def _get(
        self,
        image: Path | ImageReference | None,
        config: VmConfig,
        setting: str,
        *,
        format: str | None,
        called: str,
        qemu_img: Path,
    ) -> BaseImage | None:
        if image is None:
            return None
        origin = config.origin(setting.partition(" ")[0])

        def opened() -> BaseImage:
            if isinstance(image, ImageReference) and isinstance(image.place, NetworkImage):
                if setting == "cdrom":
                    raise ImageError(f"{origin}: a CD is read from a file of this computer, not from {image}")
                shown = f"{called} {image.describe()} (from {origin})"
                file = self._sources.connect(image.place, config, format=format, shown=shown, qemu_img=qemu_img)
                return BaseImage((file,), WriteWatch(), {})
            path = self._sources.locate(image, config, origin=origin, qemu_img=qemu_img)
            # It says what was brought here, which is converted on its way where it is one of these.
            given = None if path != image and format in UNFREEZABLE else format
            return open_base(path, format=given, origin=origin, qemu_img=qemu_img, called=called)

        # Of a registry's image there may be one for each architecture.
        arch = None if isinstance(image, Path) else f"{config.arch} {config.qemu}"
        base = self._opened.get((image, format, arch), opened)
        if self._compare is not None:  # also what was opened by another name, as other hosts may know it by this one
            self._compare(setting, image, origin, base.chain)
        self._prove(base, config.verify)
        return base

    def _compare_parts(self, config: VmConfig) -> None:
        for setting in _READ_WHOLE:
            if (path := getattr(config, setting)) is not None:
                origin = config.origin(setting)
                self._compared.get((setting, path, origin), partial(self._compare_file, setting, path, origin))

    def _compare_file(self, setting: str, path: Path, origin: str) -> None:
        file = open_chain([(path, "raw")], shown=f"{setting} {path} (from {origin})", what=f"the {setting}")
        try:
            assert self._compare is not None
            self._compare(setting, path, origin, file.chain)
        finally:
            file.close()

    def has(self, config: VmConfig) -> bool:
        """Whether what `get` returns can be had at once: it need not be downloaded or unpacked."""
        images = (config.image, config.cdrom, *(disk.image for disk in config.disks))
        return all(not image or isinstance(image, str) or self._sources.has(image, config) for image in images)

    def get_parts(
        self, parts: tuple[tuple[Path, str], ...], *, what: str, origin: str, verify: str
    ) -> tuple[ImageFile, ...]:
        """Files that machines read beside their images, by path and format: kept, and proved untouched, as these are.

        :param what: what they are, for messages.
        :param origin: what names them.
        :raises ImageError: one cannot be read, or is open for writing elsewhere.
        :raises BaseImageChanged: one was found changed earlier in this run.
        """
        shown = f"{what} {parts[0][0]} (from {origin})"
        found = self._parts.get(parts, lambda: open_chain(parts, shown=shown, what=what))
        self._prove(found, verify)
        return tuple(file for file in found.chain if isinstance(file, ImageFile))

    def _prove(self, base: BaseImage, verify: str) -> None:
        if base.broken:
            raise BaseImageChanged(f"{base.path} is not used any more: {base.broken}")
        base.require_served()
        self._lost.discard(base)
        if verify != "off":
            self._watched.add(base)
        if verify == "hash":
            self._digests.get(base, base.sha256)

    def check(self, *, during: str) -> tuple[Where, ...]:
        """Compare every base in use with what it was when it was opened; return those that were compared.

        :param during: what ran meanwhile, for the message.
        :raises BaseImageChanged: one is not what it was.
        :raises BaseImageLost: the server of one does not tell, which is said once, until a machine is wanted from it.
        """
        sound, found, lost = [], [], []
        for base in [base for base in tuple(self._watched - self._lost) if not base.broken]:
            try:
                difference = base.difference()
            except BaseImageLost as error:
                self._lost.add(base)
                lost.append(str(error))
                continue
            if difference:
                base.broken = f"{difference} while {during} ran"
                found.append(f"{base.what} is no longer what it was: {base.broken}")
            else:
                sound.append(base.path)
        if found:
            raise BaseImageChanged("; ".join(found))
        if lost:
            raise BaseImageLost(f"{'; '.join(lost)}; whether it is what it was while {during} ran cannot be told")
        return tuple(sound)

    @property
    def broken(self) -> dict[Where, str]:
        """What happened to each base that was found changed so far."""
        return {base.path: base.broken for base in tuple(self._watched) if base.broken}

    def identity(self, image: Path | ImageReference | None) -> dict[str, str]:
        """By what a base image can be told from another: its ``fingerprint``; with ``verify=hash`` its ``sha256``."""
        digests = self._digests.made()
        for (named, *_), base in self._opened.made().items():
            if named == image:
                if base in digests:
                    return {"sha256": digests[base][0]}
                found = base.chain[0].fingerprint
                if isinstance(found, NetworkFingerprint):
                    return {"fingerprint": str(found)}
                return {"fingerprint": f"size={found.size} mtime_ns={found.mtime_ns} inode={found.inode}"}
        return {}

    def compare_digests(self) -> dict[Where, str]:
        """Read every base that was opened with ``verify=hash`` once more: what is to complain of each, or nothing."""
        complaints: dict[Where, str] = {}
        for base, before in self._digests.made().items():
            compared = zip(base.chain, before, base.sha256(), strict=True)
            changed = [f"{at.path} has the SHA-256 {new} and had {old}" for at, old, new in compared if old != new]
            complaints[base.path] = f"{'; '.join(changed)} when it was opened" if changed else ""
        return complaints

    def close(self) -> None:
        with Cleanup() as cleanup:
            for base in (*self._opened.made().values(), *self._parts.made().values()):
                with cleanup.step():
                    base.close()
            with cleanup.step():
                self._sources.close()
