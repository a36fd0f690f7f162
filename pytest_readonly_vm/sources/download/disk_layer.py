"""Owns what a layer of a containerdisk has: the disk below ``/disk``, and what it hides of the layers below it.

A layer is a stranger's archive: a disk that is taken out of it gets a name of ours, and has bounds. How a layer hides
what is below it is said in https://github.com/opencontainers/image-spec/blob/main/layer.md#whiteouts.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pytest_readonly_vm.config.digest import Digest
from pytest_readonly_vm.errors import DownloadError, HostError, OutOfSpace
from pytest_readonly_vm.host.atomic_file import atomic_file
from pytest_readonly_vm.host.os_errors import explain, is_lack
from pytest_readonly_vm.image.packed_streams import ByteStream, can_unpack, unpacked
from pytest_readonly_vm.image.signatures import HEAD, Stream, packing_of
from pytest_readonly_vm.image.sparse import write_pages
from pytest_readonly_vm.sources.archives import Member, ReadingBound, tar_members

_FOLDER = "disk/"
_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_CHUNK = 1 << 20
_ZEROS = bytes(_CHUNK)
_ENLARGE = "enlarge it by --vm-image-store-size"
_LARGEST, _LARGEST_DISK = 16, 4
"""How many times the limit a layer and its disk may be large that are mostly zeros: these take time, and no room."""


@dataclass(slots=True)
class Above:
    """What layers hide of those below them."""

    names: set[str] = field(default_factory=set)
    hides_all: bool = False


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk that was taken out of a layer."""

    path: Path
    sha256: Digest


def take_disk(layer: Path, folder: Path, above: Above, *, what: str, limit: int) -> Disk | None:
    """The disk of a layer, as a file in a folder; None if there is none that those above do not hide.

    What the layer hides in its turn is added to `above`.

    :param limit: bytes that it may take on the disk.
    :raises ImageError: there are several, or it is no file, or the layer is damaged or too large.
    :raises OutOfSpace: the folder has no room for it.
    :raises HostError: it cannot be put there. After any error nothing of it is left.
    """
    target = folder / f"{layer.name}-disk"
    hidden = set(above.names)
    found: dict[str, Disk] = {}
    refusal = f"{what} has a layer of more than {_LARGEST} times what the store of images may take; {_ENLARGE}"
    bound = ReadingBound(_LARGEST * limit, DownloadError(refusal))
    try:
        with layer.open("rb", buffering=0) as file:
            for member in tar_members(bound.within(_plain(ByteStream(file.read), what)), what):
                name = member.name.lstrip("/")
                if name in (f"{_WHITEOUT}disk", _OPAQUE, f"{_FOLDER}{_OPAQUE}"):
                    above.hides_all = True
                elif name.startswith(f"{_FOLDER}{_WHITEOUT}"):
                    above.names.add(name.replace(_WHITEOUT, "", 1))
                elif _is_in_folder(name) and name not in hidden:
                    if member.link:
                        raise DownloadError(f"{what} has {member.link} in the place of its disk, {name}")
                    if found and name not in found:
                        both = ", ".join(sorted([*found, name]))
                        raise DownloadError(f"{what} has several disks, and which one is meant cannot be told: {both}")
                    found[name] = _taken(member, bound.within(member.content), target, what, limit)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return next(iter(found.values()), None)


def _is_in_folder(name: str) -> bool:
    """Whether it is a file of the folder itself that can be a disk; hidden ones are there to keep folders."""
    rest = name.removeprefix(_FOLDER)
    return rest != name and "/" not in rest and not rest.startswith(".")


def _plain(packed: ByteStream, what: str) -> ByteStream:
    """The archive, whatever it is packed by."""
    kind = packing_of(packed.peek(HEAD))
    return unpacked(packed, kind, what) if isinstance(kind, Stream) and can_unpack(kind) else packed


def _taken(member: Member, content: ByteStream, target: Path, what: str, limit: int) -> Disk:
    too_large = f"{what}: {member.name} is too large: more than"
    if member.size > _LARGEST_DISK * limit:  # of which a tar gives no more than it says
        raise DownloadError(f"{too_large} {_LARGEST_DISK} times what the store of images may take; {_ENLARGE}")
    sha256, position, written = hashlib.sha256(), 0, 0
    try:
        with atomic_file(target, mode=0o600) as file:
            for data in _pieces(content):
                sha256.update(data)
                if not _ZEROS.startswith(data):
                    written += write_pages(file.fileno(), data, len(data), position)
                position += len(data)
                if written > limit:
                    raise DownloadError(
                        f"{too_large} the {limit >> 20} MiB that the store of images may take; {_ENLARGE}"
                    )
            file.truncate(position)
    except OSError as error:
        sentence = f"{target.parent} cannot take the {member.size >> 20} MiB of {what}: {explain(error)}"
        if is_lack(error):
            raise OutOfSpace(f"{sentence}; make room, or name another folder by --vm-image-store=DIR") from None
        raise HostError(sentence) from None
    return Disk(target, Digest("sha256", sha256.hexdigest()))


def _pieces(content: ByteStream) -> Iterator[bytes]:
    while data := content.read(_CHUNK):
        yield data
