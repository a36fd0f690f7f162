"""Owns the base image: its chain, open read-only, and the proof that it is untouched.

Every file of the backing chain is opened here, once a run, and QEMU gets the descriptors. So what is booted, what is
checked and what is proved are the same files, whatever happens to their names.
"""

import os
from pathlib import Path

from pytest_readonly_vm.errors import ImageError
from pytest_readonly_vm.host.writers import WriteWatch, times_show_writes
from pytest_readonly_vm.image.image_file import Fingerprint, ImageFile
from pytest_readonly_vm.image.inspection import inspect_chain, refuse_writers

_SMALL = 64 << 20
"""Bytes: where times do not tell all, so much is read once more when somebody may have written it; 50 ms."""
_TIMES = "its size and times are what they were"


class BaseImage:
    """A base image with its backing chain, open and believed sound. `chain` begins with the image itself."""

    def __init__(self, chain: tuple[ImageFile, ...], watch: WriteWatch, watched: dict[ImageFile, int]) -> None:
        """`watched` are the files whose times do not tell all, with their numbers in the watch for writers."""
        self.chain = chain
        self._watch = watch
        self._watched = watched
        self._digests = {file: file.sha256() for file in watched if file.fingerprint.size <= _SMALL}
        self.broken: str | None = None
        """Set by whoever finds a difference: why no further machine may start from this image."""

    @property
    def path(self) -> Path:
        return self.chain[0].path

    @property
    def format(self) -> str:
        return self.chain[0].format

    def difference(self) -> str | None:
        """The first difference between now and when the image was opened, naming the file, or None."""
        for file in self.chain:
            if found := file.difference():
                return f"{file.path} {found}"
        for file, number in self._watched.items():
            if self._watch.had_writer(number, file.descriptor):
                if file not in self._digests:
                    return f"{file.path} was opened for writing, and may have other content ({_TIMES})"
                if file.sha256() != self._digests[file]:
                    return f"{file.path} was written ({_TIMES})"
        return None

    def sha256(self) -> tuple[str, ...]:
        """The digest of each file's bytes. Reads everything: 0.3 s for 500 MB that are in memory."""
        return tuple(file.sha256() for file in self.chain)

    def close(self) -> None:
        self._watch.close()
        for file in self.chain:
            os.close(file.descriptor)


def open_base(path: Path, *, format: str | None, origin: str, qemu_img: Path) -> BaseImage:
    """Look at an image and every file below it, refuse what cannot be a base, and open the rest read-only.

    :raises ImageError: missing, unreadable, damaged, encrypted, open for writing elsewhere, or of an unsupported kind.
    """
    shown = f"base image {path} (from {origin})"
    chain: list[ImageFile] = []
    watched: dict[ImageFile, int] = {}
    watch = WriteWatch()
    try:
        for found in inspect_chain(path, format=format, shown=shown, qemu_img=qemu_img):
            try:
                descriptor = os.open(found.path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise ImageError(f"{shown}: {found.path}: {error.strerror}") from None
            chain.append(ImageFile(found.path, found.format, descriptor, Fingerprint.of(os.fstat(descriptor))))
            # The watch first, and then the question who is there already: so nobody can come between the two.
            if not times_show_writes(descriptor):
                watched[chain[-1]] = watch.add(descriptor)
            refuse_writers(descriptor, f"{shown}: {found.path}")
    except BaseException:
        BaseImage(tuple(chain), watch, {}).close()
        raise
    return BaseImage(tuple(chain), watch, watched)
