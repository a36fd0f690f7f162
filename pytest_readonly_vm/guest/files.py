"""Owns the transfer of files and folders between host and guest, over whatever channel the machine has.

A file goes as it is; a folder as a tar archive, which keeps modes, times, links and odd names. What has arrived is
read once more by the guest's ``sha256sum`` and compared.
"""

import asyncio
import contextlib
import hashlib
import os
import re
import secrets
import shlex
import stat
import tarfile
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from pytest_readonly_vm.channels.channel import Channel
from pytest_readonly_vm.channels.jobs import folder_name
from pytest_readonly_vm.errors import ChannelLost, TransferError
from pytest_readonly_vm.guest.commands import Commands
from pytest_readonly_vm.guest.tar_folder import pack, unpack, write_sparse
from pytest_readonly_vm.guest.transfer_scripts import begin, pack_folder, take_file, take_folder
from pytest_readonly_vm.printable import tail
from pytest_readonly_vm.qemu.instance import Instance

_PIECE = 1 << 20  # bytes
_NUMBERS = re.compile(r"[0-7]{1,4} -?\d{1,15} \d{1,18}")  # mode, time, size

Progress = Callable[[str, int, int | None], None]
"""Told of a transfer as it goes: what it is, how many bytes have gone, how many there are if that is known."""


class Files:
    """Moves files to and from one machine; for the loop."""

    def __init__(self, commands: Commands, instance: Instance, progress: Progress) -> None:
        self._channels = instance.channels
        self._commands = commands
        self._name = instance.name
        self._scratch = instance.folder
        self._output_guard = instance.output_guard
        self._progress = progress

    async def read(self, path: str) -> bytes:
        """As `VirtualMachine.read_bytes`."""
        self._refuse_relative(path)
        content = bytearray()
        async with self._told(path) as channel:
            await channel.read_file(_encoded(path), content.extend)
        return bytes(content)

    async def write(self, path: str, content: bytes, *, mode: int, owner: str | None, parents: bool) -> None:
        """As `VirtualMachine.write_bytes`."""
        digest = hashlib.sha256(content).hexdigest()
        async with self._placing(path, owner, parents) as (partial, ids):
            await self._send(partial, path, _one(content))
            await self._guest(take_file(partial, path, digest=digest, ids=ids, mode=mode), path)

    async def push(self, local: Path, remote: str, *, mode: int | None, owner: str | None, parents: bool) -> None:
        """As `VirtualMachine.push`."""
        if not local.is_symlink() and local.is_dir():
            if mode is not None:
                raise TransferError(
                    f"{self._name}: {local} is a folder, whose files keep their modes; mode is for a file"
                )
            await self._push_tree(local, remote, owner, parents)
            return
        with _local(local):
            found = local.stat()
            if not stat.S_ISREG(found.st_mode):
                raise TransferError(f"{self._name}: {local} is neither a file nor a folder")
            with local.open("rb") as file:
                digest = hashlib.sha256()
                content = self._reading(file, f"{local} → {self._name}", found.st_size, digest.update)
                async with self._placing(remote, owner, parents) as (partial, ids):
                    await self._send(partial, remote, content)
                    how = {
                        "mode": stat.S_IMODE(found.st_mode) if mode is None else mode,
                        "modified": int(found.st_mtime),
                    }
                    await self._guest(take_file(partial, remote, digest=digest.hexdigest(), ids=ids, **how), remote)

    async def pull(self, remote: str, local: Path) -> None:
        """As `VirtualMachine.pull`."""
        with _local(local):
            self._output_guard.refuse(local)  # before the guest is asked for anything
        self._refuse_relative(remote)
        quoted = shlex.quote(remote)
        kind = await self._commands.run(
            f"if [ -d {quoted} ]; then echo folder; elif [ -f {quoted} ]; then stat -L -c 'file %a %Y %s' -- {quoted}; "
            f"elif [ -e {quoted} ]; then echo other; else echo nothing; fi"
        )
        match kind.stdout.split():
            case ["folder"]:
                await self._pull_tree(remote, local)
            case ["file", *numbers] if _NUMBERS.fullmatch(" ".join(numbers)):
                mode, modified, size = numbers
                await self._pull_file(remote, local, mode=int(mode, 8), modified=int(modified), size=int(size))
            case ["nothing"]:
                raise TransferError(f"{self._name}: {remote} is not there, in the guest")
            case _:
                raise TransferError(f"{self._name}: {remote} is neither a file nor a folder, in the guest")

    # One file.

    @contextlib.asynccontextmanager
    async def _placing(
        self, remote: str, owner: str | None, parents: bool, *, is_folder: bool = False
    ) -> AsyncIterator[tuple[str, list[int]]]:
        """An unfinished file beside what it is to become, so that nobody in the guest sees half of that.

        With it come the numbers of its owner and group, if one is wanted. What is not finished is removed, and its name
        is in no message.
        """
        self._refuse_relative(remote)
        suffix = f".{secrets.token_hex(4)}.partial"
        partial = f"{remote.rstrip('/') or '/'}{suffix}"
        make = begin(partial, remote, owner=owner, parents=parents, is_folder=is_folder)
        with _without(suffix):
            try:
                ids = await self._guest(make, remote)
                yield partial, [int(number) for number in ids.split()]
            except BaseException:
                with contextlib.suppress(Exception):
                    await self._commands.run(["rm", "-f", "--", partial], timeout=10)
                raise

    async def _send(self, partial: str, remote: str, content: AsyncIterator[bytes]) -> None:
        async with self._told(remote) as channel:
            await channel.write_file(_encoded(partial), content)

    async def _fetch(self, path: str, file: BinaryIO, *, what: str, size: int, about: str) -> None:
        """The content of a file in the guest, compared; `about` is what it is called if that fails."""
        digest = hashlib.sha256()
        done = 0

        def take(piece: bytes) -> None:
            nonlocal done
            digest.update(piece)
            write_sparse(file, piece)
            done += len(piece)
            self._progress(what, done, size)

        async with self._told(about) as channel:
            await channel.read_file(_encoded(path), take)
        file.truncate(file.tell())
        there = (await self._guest(f"sha256sum <{shlex.quote(path)}", about)).partition(" ")[0]
        if there != digest.hexdigest():
            raise TransferError(f"{self._name}: {about} changed meanwhile or arrived damaged: its SHA-256 differs")

    async def _pull_file(self, remote: str, local: Path, *, mode: int, modified: int, size: int) -> None:
        target = local / Path(remote).name if local.is_dir() else local
        with _local(target), self._output_guard.file(target, mode=0o600) as file:
            what = f"{self._name}: {remote} → {target}"
            await self._fetch(remote, file, what=what, size=size, about=remote)
            os.fchmod(file.fileno(), mode & 0o777)
            os.utime(file.fileno(), (modified, modified))

    # A folder.

    async def _push_tree(self, local: Path, remote: str, owner: str | None, parents: bool) -> None:
        with _local(local, and_in_it=True), tempfile.TemporaryFile(dir=self._scratch) as file:
            async with self._placing(remote, owner, parents, is_folder=True) as (partial, ids):
                await asyncio.to_thread(pack, local, file, *ids)
                size = file.tell()
                file.seek(0)
                digest = hashlib.sha256()
                content = self._reading(file, f"{local} → {self._name}", size, digest.update)
                await self._send(partial, remote, content)
                await self._guest(take_folder(partial, remote, digest=digest.hexdigest()), remote)

    async def _pull_tree(self, remote: str, local: Path) -> None:
        name = folder_name()
        with _local(local), _without(f"/{name}"), tempfile.TemporaryFile(dir=self._scratch) as file:
            packed = await self._guest(pack_folder(remote, name), remote)
            archive, _, size = packed.strip().partition(" ")
            if not size.isdecimal():
                raise TransferError(f"{self._name}: {remote}: the guest's tar said {packed!r}")
            try:
                what = f"{self._name}: {remote} → {local}"
                await self._fetch(archive, file, what=what, size=int(size), about=remote)
            finally:
                await self._commands.run(["rm", "-f", archive], check=False, timeout=10)
            arrived = Path(f"/proc/self/fd/{file.fileno()}")
            await asyncio.to_thread(unpack, arrived, local, self._output_guard)

    # What they share.

    async def _reading(
        self, file: BinaryIO, what: str, size: int, see: Callable[[bytes], object]
    ) -> AsyncIterator[bytes]:
        done = 0
        while piece := file.read(_PIECE):
            see(piece)
            yield piece
            done += len(piece)
            self._progress(what, done, size)

    def _refuse_relative(self, path: str) -> None:
        if not path.startswith("/"):
            raise TransferError(f"{self._name}: {path!r} does not begin with '/', as a path in the guest has to")

    async def _guest(self, script: str, about: str) -> str:
        """What a script in the guest prints; its complaint is a `TransferError`."""
        done = await self._commands.run(script, check=False)
        if done.exit_code != 0:
            reason = "; ".join(tail(done.stderr_bytes)) or f"exit code {done.exit_code}"
            raise TransferError(f"{self._name}: {about}: {reason}")
        return done.stdout

    @contextlib.asynccontextmanager
    async def _told(self, about: str) -> AsyncIterator[Channel]:
        """The channel, whose errors about a path in the guest are told as ours."""
        try:
            yield await self._channels.channel()
        except ChannelLost as lost:
            self._channels.lose()
            lost.add_note(f"It was transferring {about}")
            raise
        except OSError as error:
            if error.filename is None:
                raise
            raise TransferError(f"{self._name}: {about}: {error.strerror}, in the guest") from None


def _encoded(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")


async def _one(content: bytes) -> AsyncIterator[bytes]:
    yield content


@contextlib.contextmanager
def _local(path: Path, *, and_in_it: bool = False) -> Iterator[None]:
    """Errors about the host's files, as ours: about this, or about what is in it by its own name."""
    try:
        yield
    except (TransferError, TimeoutError):
        raise
    except (OSError, tarfile.TarError) as error:
        named = Path(getattr(error, "filename", None) or path)
        about = named if and_in_it and named.is_relative_to(path) else path
        raise TransferError(f"{about}: {getattr(error, 'strerror', None) or error}, on the host") from None


@contextlib.contextmanager
def _without(name: str) -> Iterator[None]:
    """Errors of ours without a name that is of no use to anybody: that of a file which is removed again."""
    try:
        yield
    except TransferError as error:
        if name not in str(error):
            raise
        raise TransferError(str(error).replace(name, "")) from None
