"""Owns the base images of one run: each is opened once, and all are compared with what they were."""

from pathlib import Path

from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.errors import BaseImageChanged
from pytest_readonly_vm.host.cleanup import Cleanup
from pytest_readonly_vm.host.once import Once
from pytest_readonly_vm.image.base import BaseImage, open_base


class Bases:
    """Those that machines were started from so far. Any thread may ask."""

    def __init__(self) -> None:
        self._opened: Once[tuple[Path, str | None], BaseImage] = Once()
        self._watched: set[BaseImage] = set()
        self._digests: Once[BaseImage, tuple[str, ...]] = Once()

    def get(self, config: VmConfig, *, qemu_img: Path) -> BaseImage | None:
        """The base of a configuration, None if it has none.

        :raises ImageError: the image is refused.
        :raises BaseImageChanged: it was found changed earlier in this run.
        """
        image = config.image
        if image is None:
            return None
        base = self._opened.get(
            (image, config.format),
            lambda: open_base(image, format=config.format, origin=config.origin("image"), qemu_img=qemu_img),
        )
        if base.broken:
            raise BaseImageChanged(f"{image} is not used any more: {base.broken}")
        if config.verify != "off":
            self._watched.add(base)
        if config.verify == "hash":
            self._digests.get(base, base.sha256)
        return base

    def check(self, *, during: str) -> tuple[Path, ...]:
        """Compare every base in use with what it was when it was opened; return those that were compared.

        :param during: what ran meanwhile, for the message.
        :raises BaseImageChanged: one is not what it was.
        """
        sound, found = [], []
        for base in [base for base in tuple(self._watched) if not base.broken]:
            if difference := base.difference():
                base.broken = f"{difference} while {during} ran"
                found.append(base.broken)
            else:
                sound.append(base.path)
        if found:
            raise BaseImageChanged(f"the base image is no longer what it was: {'; '.join(found)}")
        return tuple(sound)

    @property
    def broken(self) -> dict[Path, str]:
        """What happened to each base that was found changed so far."""
        return {base.path: base.broken for base in tuple(self._watched) if base.broken}

    def identity(self, image: Path | None) -> dict[str, str]:
        """By what a base image can be told from another: its ``fingerprint``; with ``verify=hash`` its ``sha256``."""
        digests = self._digests.made()
        for base in self._opened.made().values():
            if base.path == image:
                if base in digests:
                    return {"sha256": digests[base][0]}
                found = base.chain[0].fingerprint
                return {"fingerprint": f"size={found.size} mtime_ns={found.mtime_ns} inode={found.inode}"}
        return {}

    def compare_digests(self) -> dict[Path, str]:
        """Read every base that was opened with ``verify=hash`` once more: what is to complain of each, or nothing."""
        complaints = {}
        for base, before in self._digests.made().items():
            compared = zip(base.chain, before, base.sha256(), strict=True)
            changed = [f"{at.path} has the SHA-256 {new} and had {old}" for at, old, new in compared if old != new]
            complaints[base.path] = f"{'; '.join(changed)} when it was opened" if changed else ""
        return complaints

    def close(self) -> None:
        with Cleanup() as cleanup:
            for base in self._opened.made().values():
                with cleanup.step():
                    base.close()
