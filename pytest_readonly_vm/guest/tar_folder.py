"""Owns a folder as the tar archive by which it goes to a guest or comes from one.

What comes may have been made up by the guest. So it is decided beforehand what each name would become, and nothing is
unpacked of an archive with a name that would be written elsewhere than in the folder. Each name is then looked up from
the open folder, part by part and through no link, and what is made takes its name when it is whole: nothing that was
there is written to, or changed, through a name that it has.

tarfile's own filters decide by a member's type, follow what is in the folder already, and either change modes or refuse
links that lead out, which are harmless here, and common.
"""

import contextlib
import os
import secrets
import stat
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from pytest_readonly_vm.image.output_guard import OutputGuard

_PIECE = 1 << 20  # bytes
_BLOCK = 4096
_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OURS = 0o700  # what we must be able to do with a folder, to fill it now and to remove it one day
_ODD = (ValueError, ArithmeticError, LookupError, EOFError, RecursionError)
"""What tarfile raises for some archives that are none, beside its own errors."""

Parts = tuple[str, ...]
"""A name below the folder; of the folder itself it is empty."""


@dataclass(frozen=True, slots=True)
class _Planned:
    """One thing to be made."""

    member: tarfile.TarInfo
    parts: Parts
    kind: str
    """``folder``, ``file``, ``link`` (a symbolic one), ``name`` (one more, of a file that is unpacked before)."""
    source: Parts = ()
    """Whose other name it is."""


def pack(folder: Path, file: BinaryIO, owner: int = 0, group: int = 0) -> None:
    """Write a folder's contents as an archive in which everything has one owner and group, by number."""

    def given(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid, member.gid = owner, group
        member.uname = member.gname = ""
        return member

    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
        tar.add(folder, arcname=".", filter=given)


def unpack(archive: Path, folder: Path, output_guard: OutputGuard | None = None) -> None:
    """Unpack what a guest sent: folders, files, links; nothing else, and all of it ours.

    :raises tarfile.TarError: it would write elsewhere than into the folder, or is no whole archive.
    :raises OSError: a file that is there must not be replaced, or something cannot be written.
    """
    was_there = folder.is_dir()
    with archive.open("rb") as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                planned = list(_plan(tar, folder, output_guard or OutputGuard()))
                folder.mkdir(parents=True, exist_ok=True)
                top = os.open(folder, _OPEN_FOLDER & ~os.O_NOFOLLOW)
                try:
                    for one in planned:
                        _make(tar, one, top)
                    _finish([one for one in planned if one.kind == "folder" and (one.parts or not was_there)], top)
                finally:
                    os.close(top)
        except _ODD as error:
            raise tarfile.TarError(f"the guest's archive is damaged: {error}") from None


# What is to be made.


def _plan(tar: tarfile.TarFile, folder: Path, output_guard: OutputGuard) -> Iterator[_Planned]:
    """What an archive would become in a folder, in its order; nothing is done yet."""
    kinds: dict[Parts, str] = {(): "folder"}
    for member in _members(tar):
        parts = _parts(member.name)
        source = _parts(member.linkname) if member.islnk() else ()
        kind = _kind(member, kinds.get(source, "missing"))
        if kind == "nothing":
            kinds.setdefault(parts, kind)
            continue
        known = {parts[:length]: _found(folder, kinds, parts[:length]) for length in range(len(parts) + 1)}
        above = list(known.values())[:-1]
        if kind == "missing":
            raise _elsewhere(member.linkname)  # to what is in the folder already, or to what is no file
        if any(one == "link" for one in above) or (kind != "link" and known[parts] == "link"):
            raise _elsewhere(member.name)
        if "file" in above or (known[parts] != "nothing" and (known[parts] == "folder") != (kind == "folder")):
            raise tarfile.TarError(f"{member.name!r} is a folder in one place and none in the other")
        if kind != "folder" and (why := output_guard.why_not(folder.joinpath(*parts), is_link=kind == "link")):
            raise tarfile.TarError(f"{member.name!r} would be replaced, and {why}; nothing was written")
        kinds |= {above: "folder" for above in known if above != parts}
        kinds[parts] = "file" if kind == "name" else kind
        yield _Planned(member, parts, kind, source)


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """All members. tarfile takes a damaged header for the end, and may go back for a size below zero."""
    for member in tar:
        if member.size < 0:
            raise tarfile.TarError(f"the guest's archive is damaged: {member.name!r} has less than no bytes")
        yield member
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.TarError("the guest's archive is damaged: it has no end")


def _parts(name: str) -> Parts:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise _elsewhere(name)
    return path.parts


def _kind(member: tarfile.TarInfo, linked: str) -> str:
    """What a member becomes, by its type, and for a hard link by what that is a link to."""
    if member.islnk():
        return {"file": "name", "nothing": "nothing"}.get(linked, "missing")
    if member.isdir():
        return "folder"
    if member.issym():
        return "link"
    return "file" if member.isreg() else "nothing"


def _found(folder: Path, kinds: dict[Parts, str], parts: Parts) -> str:
    """What will be at a name by then, from the archive or since before."""
    if (known := kinds.get(parts, "nothing")) != "nothing":
        return known
    try:
        mode = folder.joinpath(*parts).lstat().st_mode
    except OSError:
        return "nothing"
    return "link" if stat.S_ISLNK(mode) else "folder" if stat.S_ISDIR(mode) else "file"


def _elsewhere(name: str) -> tarfile.TarError:
    return tarfile.TarError(f"the guest's archive has {name!r}, which would be unpacked elsewhere")


# The making.


def _make(tar: tarfile.TarFile, planned: _Planned, top: int) -> None:
    with _folder(planned.parts[:-1], top) as above:
        if planned.kind == "folder":
            if planned.parts:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(planned.parts[-1], _OURS, dir_fd=above)
            return
        name, partial = planned.parts[-1], f".{secrets.token_hex(8)}.partial"
        try:
            if planned.kind == "link":
                os.symlink(planned.member.linkname, partial, dir_fd=above)
            elif planned.kind == "name":
                with _folder(planned.source[:-1], top) as beside:
                    os.link(planned.source[-1], partial, src_dir_fd=beside, dst_dir_fd=above, follow_symlinks=False)
            else:
                _write(tar, planned.member, partial, above)
            os.rename(partial, name, src_dir_fd=above, dst_dir_fd=above)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(partial, dir_fd=above)


@contextlib.contextmanager
def _folder(parts: Parts, top: int) -> Iterator[int]:
    """The descriptor of a folder below the top one, made if it is not there; through no link."""
    descriptor = os.dup(top)
    try:
        for part in parts:
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, 0o777, dir_fd=descriptor)
            inner = os.open(part, _OPEN_FOLDER, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, name: str, above: int) -> None:
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=above)
    with os.fdopen(descriptor, "wb") as file:
        source = tar.fileobj
        assert source is not None
        source.seek(member.offset_data)
        if member.issparse():
            for offset, size in cast(Iterable[tuple[int, int]], member.sparse):
                file.seek(offset)
                _copy(source, file, size)
        else:
            _copy(source, file, member.size)
        file.truncate(member.size)
        file.flush()
        os.fchmod(descriptor, member.mode & 0o777)
        _set_time(member, descriptor)


def _copy(source: "tarfile._Fileobj", file: BinaryIO, size: int) -> None:
    while size > 0:
        if not (piece := source.read(min(size, _PIECE))):
            raise tarfile.TarError("the guest's archive is truncated")
        write_sparse(file, piece)
        size -= len(piece)


def _finish(folders: list[_Planned], top: int) -> None:
    """Give folders their modes and times, when nothing more is put into them: the innermost first."""
    for one in sorted(folders, key=lambda one: -len(one.parts)):
        with _folder(one.parts, top) as descriptor:
            os.fchmod(descriptor, (one.member.mode & 0o777) | _OURS)
            _set_time(one.member, descriptor)


def _set_time(member: tarfile.TarInfo, descriptor: int) -> None:
    with contextlib.suppress(OverflowError, ValueError, OSError):  # one that no file here can have
        os.utime(descriptor, (member.mtime, member.mtime))


def write_sparse(file: BinaryIO, piece: bytes) -> None:
    """Write, and leave out blocks of zeros: a hole reads the same. In the end the file is to be given its size."""
    for start in range(0, len(piece), _BLOCK):
        block = piece[start : start + _BLOCK]
        if block.count(0) == len(block):
            file.seek(len(block), os.SEEK_CUR)
        else:
            file.write(block)
