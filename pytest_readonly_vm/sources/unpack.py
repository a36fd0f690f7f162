"""Owns the way from a file that has a disk in it to that disk: packed, in an archive, or both, known by its content.

It may be a stranger's, so nothing in it decides how much is written, or where: a disk has bounds, and what is unpacked
gets a name of ours.
"""

import contextlib
import errno
import io
import os
import shlex
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from pytest_readonly_vm.errors import ImageError
from pytest_readonly_vm.host import os_errors
from pytest_readonly_vm.image.disk_formats import is_description_of_vmdk, is_disk, virtual_size
from pytest_readonly_vm.image.not_a_disk import why_no_content_of_a_disk
from pytest_readonly_vm.image.packed_streams import ByteStream, can_unpack, unpacked
from pytest_readonly_vm.image.signatures import HEAD, TAR, ZIP, Archive, Stream, packing_of
from pytest_readonly_vm.image.sparse import write_pages
from pytest_readonly_vm.sources.archives import Member, ReadingBound, tar_members, zip_members
from pytest_readonly_vm.sources.box_description import BOX_DISK, LONGEST, described_disks, is_description
from pytest_readonly_vm.sources.kept_disk import MAKE_ROOM, keep_disk

Progress = Callable[[int, int | None], None]
"""Told how many bytes of the packed file are read, and how many it has."""

_CHUNK = 1 << 20
_ZEROS = bytes(_CHUNK)
_DEEPEST = 4
_LARGEST = 4
"""How many times the limit a disk may be large that is mostly zeros: reading them takes time, and no room."""
_MOST_READ = 16
"""How many times the limit is read in all of what is packed in others, or as a member of an archive."""
_OVERHEAD = 64 << 20
"""What the file of an empty disk may take in a format; for others twice what the disk has, as with old snapshots."""
_UNKNOWN = 1 << 62
_ENLARGE = "enlarge it by --vm-image-store-size"


def is_packed(path: Path) -> bool:
    """Whether a file is to be unpacked before it can be a disk, by its first 33 KiB.

    Not so what nothing here unpacks, such as 7z; `why_not_a_disk` has a command for that.

    :raises OSError: it cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # which a FIFO in its place cannot hold up
    try:
        is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)  # a device's times say nothing of its content
        return is_file and _is_unpacked_here(packing_of(os.pread(descriptor, HEAD, 0)))
    finally:
        os.close(descriptor)


def _is_unpacked_here(kind: Stream | Archive | None) -> bool:
    return can_unpack(kind) if isinstance(kind, Stream) else kind in (TAR, ZIP)


def unpack(
    source: Path,
    folder: Path,
    *,
    limit: int,
    shown: str,
    qemu_img: Path,
    name: str | None = None,
    progress: Progress = lambda done, size: None,
) -> Path:
    """Put the one disk that is in a file into a folder of ours, as `keep_disk` has it, and return its path.

    Zeros are holes. Whatever ends it before, also a Ctrl-C, leaves nothing there. The disk may take `limit` bytes of
    the file system, and be four times as large with its zeros; in a format that says how large it is, twice that.

    :param shown: the file and where it was named, for messages.
    :param name: what people call the file, if not by its path.
    :raises ImageError: there is no disk, or another one; it is damaged, truncated, encrypted, too large, or needs other
        files; there is no room for it.
    """
    unpacking = _Unpacking(folder, limit, shown, name or str(source))
    try:
        with _Told(source, progress) as file:
            found = unpacking.disk(file)
        what = f"{shown}: {found.name}"
        return keep_disk(found.path, folder, written=found.name, limit=limit, shown=what, qemu_img=qemu_img)
    except OSError as error:
        raise ImageError(unpacking.explain(error)) from None
    finally:
        unpacking.remove()


class _Told(io.FileIO):
    """The packed file, whose reader is told how far it is read."""

    def __init__(self, path: Path, progress: Progress) -> None:
        super().__init__(path)
        self._progress = progress
        self._size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size) or b""
        self._progress(self.tell(), self._size)
        return data


@dataclass(frozen=True, slots=True)
class _Disk:
    """One that was found: its name, the file that it was put into, and whether it cannot be anything else."""

    name: str
    path: Path
    is_certain: bool


@dataclass
class _Unpacking:
    folder: Path
    limit: int
    shown: str
    name: str
    written: int = 0
    size: int | None = None
    """Of what is being written, if it is known."""
    files: list[Path] = field(default_factory=list)
    parts: str = ""
    """The name of the description of a VMDK that was found."""
    no_disks: list[str] = field(default_factory=list)
    """What was found instead, each with the reason."""

    def __post_init__(self) -> None:
        refusal = f"{self.shown} has more in it than {_MOST_READ} times what the store of images may take; {_ENLARGE}"
        self._bound = ReadingBound(_MOST_READ * self.limit, ImageError(refusal))

    def disk(self, file: io.FileIO) -> _Disk:
        if found := self._take(ByteStream(file.read), Path(self.name).name, file=file):
            return found
        seen = f": {'; '.join(self.no_disks[:3])}" if self.no_disks else ""
        raise ImageError(f"{self.shown} has no disk in it{seen}")

    def _take(
        self, stream: ByteStream, name: str, *, depth: int = 0, size: int | None = None, file: io.FileIO | None = None
    ) -> _Disk | None:
        """The one disk in a stream; `file` is that which it comes from as it is."""
        if depth > _DEEPEST:
            raise ImageError(f"{self.shown} is packed more than {_DEEPEST} times over; give the image that is in it")
        what = f"{self.shown}: {name}" if depth else self.shown
        stream = self._bound.within(stream) if depth else stream
        head = stream.peek(HEAD)
        kind = packing_of(head)
        if isinstance(kind, Stream) and can_unpack(kind):
            return self._take(unpacked(stream, kind, what), name.removesuffix(kind.suffix), depth=depth + 1)
        if kind is TAR:
            return self._choose(tar_members(stream, what), what, TAR, depth=depth)
        if kind is ZIP and file:
            return self._choose(zip_members(file, what), what, ZIP, depth=depth)
        if kind is not None:
            is_called = f"packed by {kind.tool}" if isinstance(kind, Stream) else kind.kind
            self.no_disks.append(f"{name} is {is_called}, and to be unpacked by hand")
            return None
        size = len(head) if len(head) < HEAD else size
        if is_description_of_vmdk(head):
            self.parts = name
            self.no_disks.append(f"{name} is the description of a VMDK in several files")
            return None
        if reason := why_no_content_of_a_disk(head, _UNKNOWN if size is None else size, name):
            self.no_disks.append(f"{name} {reason}")
            return None
        return self._write(stream, name, head, size)

    def _choose(self, members: Iterator[Member], what: str, kind: Archive, *, depth: int) -> _Disk | None:
        """The disk of an archive: that which its description names, or the only one."""
        texts: dict[str, bytes] = {}
        links: dict[str, str] = {}
        found: list[_Disk] = []
        described: list[str] = []
        for member in members:
            if member.link:
                links[member.name] = member.link
            elif is_description(member.name) and member.size <= LONGEST:
                texts[member.name] = member.content.read(LONGEST)
                described = _described(texts, what)
            elif len(described) == 1 and member.name not in described:
                continue
            elif len(described) > 1:  # which is refused, so why unpack them
                break
            elif disk := self._take(member.content, member.name, depth=depth + 1, size=member.size):
                found.append(replace(disk, name=member.name))
        names = described or [disk.name for disk in [one for one in found if one.is_certain] or found]
        if len(names) > 1 and texts and BOX_DISK in names:
            names = [BOX_DISK]
        by_hand = kind.command.format(shlex.quote(self.name))
        if len(names) > 1 and self.parts:
            raise ImageError(
                f"{what} has a VMDK in several files in it; have it made one: {by_hand}, then "
                f"qemu-img convert -O qcow2 {shlex.quote(self.parts)} disk.qcow2"
            )
        if len(names) > 1:
            raise ImageError(
                f"{what} has {len(names)} disks in it, {' and '.join(names)}; give the one that is meant, after: "
                f"{by_hand} NAME"
            )
        if not names:
            self.no_disks += [f"{name} is {link}" for name, link in links.items()]
            return None
        (name,) = names
        if name in links:
            raise ImageError(f"{what} has {links[name]} in the place of its disk {name}")
        chosen = next((disk for disk in found if disk.name == name), None)
        if chosen is None and not any(reason.startswith(f"{name} ") for reason in self.no_disks):
            raise ImageError(f"{what} names {name} as its disk, and has no such file; is its download complete?")
        return chosen

    def _write(self, stream: ByteStream, name: str, head: bytes, size: int | None) -> _Disk:
        """Put a disk into a file of its own, of no larger size than it may have, as far as its beginning says."""
        self.size = size
        most, bound = _LARGEST * self.limit, f"{_LARGEST} times what the store of images may take; {_ENLARGE}"
        virtual = virtual_size(head)
        if virtual is not None and 2 * virtual + _OVERHEAD < most:
            most, bound = 2 * virtual + _OVERHEAD, "what a disk of the size in its header takes"
        if size is not None and size > most:
            raise ImageError(self._too_large(name, bound))
        path = self.folder / f".disk-{len(self.files)}"
        self.files.append(path)
        target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            position = 0
            while data := stream.read(_CHUNK):
                if not _ZEROS.startswith(data):
                    self.written += write_pages(target, data, len(data), position)
                position += len(data)
                if self.written > self.limit:
                    raise ImageError(
                        self._too_large(
                            name, f"the {self.limit >> 20} MiB that the store of images may take; {_ENLARGE}"
                        )
                    )
                if position > most:
                    raise ImageError(self._too_large(name, bound))
            os.ftruncate(target, position)
        finally:
            os.close(target)
        return _Disk(name, path, is_certain=is_disk(head))

    def _too_large(self, name: str, bound: str) -> str:
        return f"{self.shown}: {name} is too large: more than {bound}"

    def explain(self, error: OSError) -> str:
        """What the kernel refuses, as a sentence about this image."""
        if not os_errors.is_lack(error) and error.errno != errno.EFBIG:
            return f"{self.shown} cannot be unpacked: {error.strerror}"
        size = "more than" if self.size is None else f"up to {self.size >> 20} MiB, and there was room for"
        return (
            f"{self.shown} cannot be unpacked into {self.folder}: {error.strerror}; its disk takes {size} "
            f"{self.written >> 20} MiB; {MAKE_ROOM}"
        )

    def remove(self) -> None:
        """What is left of what was written."""
        for path in self.files:
            with contextlib.suppress(OSError):
                path.unlink()


def _described(texts: dict[str, bytes], what: str) -> list[str]:
    try:
        return described_disks(texts)
    except (ValueError, RecursionError) as error:
        raise ImageError(f"{what}: {' and '.join(texts)} cannot be understood: {error}") from None
