"""Owns how files come together again from packs, in any order, and what of them an interrupted process has left.

A file has a hidden name until all are whole; the name has the manifest's digest in it, so what is found under it is of
the same parcel. Every block is compared with its digest, whether it comes from a pack or was here.
"""

import contextlib
import hashlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from pytest_readonly_vm.errors import HostError, OutOfSpace, RemoteError
from pytest_readonly_vm.host.os_errors import explain, is_lack
from pytest_readonly_vm.image.sparse import write_at, write_pages
from pytest_readonly_vm.remote.parcel import Block, Manifest
from pytest_readonly_vm.remote.splitting import blocks_of


class Assembly:
    """The files of a parcel in a folder, that is private. A context manager.

    After an error nothing of them is left; after an interrupt, as after a kill, what the next one goes on with.
    """

    def __init__(self, manifest: Manifest, folder: Path) -> None:
        self._manifest = manifest
        self._folder = folder
        self._opened: dict[str, int] = {}
        self._lacking: list[set[tuple[str, Block]]] = [set() for _ in manifest.packs]
        for name, file in manifest.files.items():
            for one in file.blocks:
                self._lacking[one.pack].add((name, one))

    def __enter__(self) -> "Assembly":
        try:
            for name, file in self._manifest.files.items():
                self._take_back(name)
                flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
                self._opened[name] = os.open(self._partial(name), flags, 0o600)
                os.ftruncate(self._opened[name], file.size)
        except OSError as error:
            self._leave(keep=False)
            raise self._refusal(error) from None
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._leave(keep=kind is None or not issubclass(kind, Exception))

    def take_left(self) -> None:
        """Count as had what an interrupted process has left, as far as digests prove it; the rest is zero again.

        :raises HostError: it cannot be read, or written.
        """
        try:
            for name, descriptor in self._opened.items():
                wanted = {one.number: one for one in self._manifest.files[name].blocks}
                for number, data in blocks_of(descriptor, self._manifest.block):
                    one = wanted.get(number)
                    if one is not None and hashlib.sha256(data).digest() == one.sha256:
                        self._lacking[one.pack].discard((name, one))
                    else:  # blocks are written to where zeros are
                        write_at(descriptor, memoryview(bytes(len(data))), number * self._manifest.block)
        except OSError as error:
            raise self._refusal(error) from None

    def take_from(self, folders: Sequence[Path]) -> None:
        """Copy what other frozen guests of this computer have of it: files in these folders, whatever they are."""
        wanted: dict[bytes, list[tuple[str, Block]]] = {}
        for lacking in self._lacking:
            for name, one in lacking:
                wanted.setdefault(one.sha256, []).append((name, one))
        for path in (path for folder in folders for path in _files(folder)):
            if not wanted:
                return
            try:
                source = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError:  # it has gone meanwhile, or is no file: then it is fetched
                continue
            try:
                for _, data in blocks_of(source, self._manifest.block):
                    for name, one in wanted.pop(hashlib.sha256(data).digest(), ()):
                        self._write(name, one, data)
                        self._lacking[one.pack].discard((name, one))
            except OSError as error:
                if is_lack(error):
                    raise self._refusal(error) from None
            finally:
                os.close(source)

    def lacks(self, pack: int) -> bool:
        """Whether anything of a pack is still wanted."""
        return bool(self._lacking[pack])

    def take(self, pack: int, data: bytes) -> None:
        """Put what a pack has where it belongs. Of several threads each has a pack of its own.

        :raises RemoteError: it has another than it should.
        :raises HostError: it cannot be written.
        """
        for name, one in sorted(self._lacking[pack], key=lambda found: (found[0], found[1].number)):
            length = min(self._manifest.block, self._manifest.files[name].size - one.number * self._manifest.block)
            part = data[one.offset : one.offset + length]
            if hashlib.sha256(part).digest() != one.sha256:
                raise RemoteError(
                    f"the frozen guest {self._manifest.key[:12]} is damaged: {name} is another than its manifest says"
                )
            try:
                self._write(name, one, part)
            except OSError as error:
                raise self._refusal(error) from None
        self._lacking[pack].clear()

    def finish(self) -> None:
        """Give the files their names, when all packs have been taken, and nobody may write to them.

        :raises HostError: they cannot be renamed.
        """
        try:
            for name, descriptor in self._opened.items():
                os.fchmod(descriptor, 0o400)
                self._partial(name).rename(self._folder / name)
        except OSError as error:
            raise self._refusal(error) from None

    def _take_back(self, name: str) -> None:
        """Have a file that an interrupted process has made whole, or nearly, be a partial one again.

        :raises OSError: that cannot be.
        """
        partial = self._partial(name)
        with contextlib.suppress(FileNotFoundError):
            (self._folder / name).rename(partial)
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISREG(partial.lstat().st_mode):
                partial.chmod(0o600)

    def _partial(self, name: str) -> Path:
        return self._folder / f".{self._manifest.digest.rpartition(':')[2][:16]}-{name}"

    def _write(self, name: str, one: Block, data: bytes) -> None:
        write_pages(self._opened[name], data, len(data), one.number * self._manifest.block)

    def _leave(self, *, keep: bool) -> None:
        for name, descriptor in self._opened.items():
            os.close(descriptor)
            if not keep:
                self._partial(name).unlink(missing_ok=True)

    def _refusal(self, error: OSError) -> HostError:
        kind = OutOfSpace if is_lack(error) else HostError
        return kind(f"{self._folder} cannot take a frozen guest from elsewhere: {explain(error)}")


def _files(folder: Path) -> list[Path]:
    """What is in a folder, which may go at any moment."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []
