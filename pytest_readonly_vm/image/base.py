"""Owns a base image: its chain, open read-only, and the proof that it is untouched.

Every file of the backing chain is opened here, and QEMU gets the descriptors. So what is booted, what is
checked and what is proved are the same files, whatever happens to their names.
"""

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from pytest_readonly_vm.errors import ImageError
from pytest_readonly_vm.host.writers import WriteWatch, times_show_writes
from pytest_readonly_vm.image.image_file import Fingerprint, ImageFile
from pytest_readonly_vm.image.inspection import inspect_chain, refuse_writers
from pytest_readonly_vm.image.network_file import ChainFile, NetworkFile, Where
from pytest_readonly_vm.image.signatures import HEAD, is_cd

_SMALL = 64 << 20
"""Bytes: where times do not tell all, so much is read once more when somebody may have written it; 50 ms."""
_TIMES = "its size and times are what they were"


class BaseImage:
    """A base image with its backing chain, open and believed sound. `chain` begins with the image itself."""

    def __init__(
        self,
        chain: tuple[ChainFile, ...],
        watch: WriteWatch,
        watched: dict[ImageFile, int],
        *,
        what: str = "the base image",
    ) -> None:
        """`watched` are the files whose times do not tell all, with their numbers in the watch for writers.

        `what` is what they are to people.
        """
        self.chain = chain
        self.what = what
        self._watch = watch
        self._watched = watched
        self._digests = {file: file.sha256() for file in watched if file.fingerprint.size <= _SMALL}
        self.broken: str | None = None
        """Set by whoever finds a difference: why no further machine may start from this image."""

    @property
    def path(self) -> Where:
        return self.chain[0].path

    @cached_property
    def is_cd(self) -> bool:
        """Whether it is the image of a CD or DVD."""
        return self.format == "raw" and is_cd(self.chain[0].read(0, HEAD))

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
            file.close()

    @property
    def virtual_size(self) -> int | None:
        """Bytes of the disk, where that is known and its name leads nowhere on this computer."""
        return file.virtual_size if isinstance(file := self.chain[0], NetworkFile) else None

    def require_served(self) -> None:
        """Ask the server of a file on the network once more, if it did not answer.

        :raises BaseImageLost: it does not now.
        :raises BaseImageChanged: it has another file.
        """
        for file in self.chain:
            if isinstance(file, NetworkFile):
                file.require_served()


def open_base(path: Path, *, format: str | None, origin: str, qemu_img: Path, called: str = "base image") -> BaseImage:
    """Look at an image and every file below it, refuse what cannot be a base, and open the rest read-only.

    :param called: what it is, for messages.
    :raises ImageError: missing, unreadable, damaged, encrypted, open for writing elsewhere, or of an unsupported kind.
    """
    shown = f"{called} {path} (from {origin})"
    chain = inspect_chain(path, format=format, shown=shown, qemu_img=qemu_img)
    return open_chain([(found.path, found.format) for found in chain], shown=shown)


def open_chain(parts: Sequence[tuple[Path, str]], *, shown: str, what: str = "the base image") -> BaseImage:
    """Files with their formats, open read-only and watched; raises as `open_base`."""
    chain: list[ImageFile] = []
    watched: dict[ImageFile, int] = {}
    watch = WriteWatch()
    try:
        for path, format in parts:
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise ImageError(f"{shown}: {path}: {error.strerror}") from None
            chain.append(ImageFile(path, format, descriptor, Fingerprint.of(os.fstat(descriptor))))
            # The watch first, and then the question who is there already: so nobody can come between the two.
            if not times_show_writes(descriptor):
                watched[chain[-1]] = watch.add(descriptor)
            refuse_writers(descriptor, f"{shown}: {path}")
    except BaseException:
        BaseImage(tuple(chain), watch, {}).close()
        raise
    return BaseImage(tuple(chain), watch, watched, what=what)
