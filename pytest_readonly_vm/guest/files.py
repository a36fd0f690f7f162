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
from pytest_readonly_vm.channels.jobs import PLACES, folder_name
from pytest_readonly_vm.errors import ChannelLost, TransferError
from pytest_readonly_vm.guest.commands import Commands
from pytest_readonly_vm.guest.tar_folder import pack, unpack, write_sparse
from pytest_readonly_vm.printable import tail
from pytest_readonly_vm.qemu.instance import Instance

_PIECE = 1 << 20  # bytes
_NUMBERS = re.compile(r"[0-7]{1,4} -?\d{1,15} \d{1,18}")  # mode, time, size

# Prints where it has put the archive: in the first place that has room for it. -S, for files with holes, is GNU's.
_PACK = f"""\
umask 077
why='there is no place for an archive'
for d in {" ".join(PLACES)}; do
    f=$d/{{name}}
    {{{{ true >"$f"; }}}} 2>/dev/null || continue
    if tar -cSf "$f" -C {{folder}} . 2>/dev/null || why=$(tar -cf "$f" -C {{folder}} . 2>&1); then
        echo "$f" $(wc -c <"$f")
        exit
    fi
    had_room=
    {{{{ printf '%4096s' x >>"$f"; }}}} 2>/dev/null && had_room=1
    rm -f "$f"
    [ ! "$had_room" ] || break
done
echo "$why" >&2
exit 1"""

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
        content = bytearray()
        async with self._told(path) as channel:
            await channel.read_file(_encoded(path), content.extend)
        return bytes(content)

    async def write(self, path: str, content: bytes, mode: int) -> None:
        """As `VirtualMachine.write_bytes`."""
        digest = hashlib.sha256(content).hexdigest()
        await self._place(path, _one(content), mode=mode, digest=lambda: digest)

    async def push(self, local: Path, remote: str) -> None:
        """As `VirtualMachine.push`."""
        if not local.is_symlink() and local.is_dir():
            await self._push_tree(local, remote)
            return
        with _local(local):
            found = local.stat()
            if not stat.S_ISREG(found.st_mode):
                raise TransferError(f"{self._name}: {local} is neither a file nor a folder")
            with local.open("rb") as file:
                digest = hashlib.sha256()
                content = self._reading(file, f"{local} → {self._name}", found.st_size, digest.update)
                mode, modified = stat.S_IMODE(found.st_mode), int(found.st_mtime)
                await self._place(remote, content, mode=mode, digest=digest.hexdigest, modified=modified)

    async def pull(self, remote: str, local: Path) -> None:
        """As `VirtualMachine.pull`."""
        with _local(local):
            self._output_guard.refuse(local)  # before the guest is asked for anything
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

    async def _place(
        self,
        remote: str,
        content: AsyncIterator[bytes],
        *,
        mode: int,
        digest: Callable[[], str],
        modified: int | None = None,
    ) -> None:
        """Write beside, compare, and only then give it its name: nobody in the guest sees half a file."""
        partial = f"{remote}.{secrets.token_hex(4)}.partial"
        quoted, name = shlex.quote(partial), shlex.quote(remote)
        folder = shlex.quote(remote.rpartition("/")[0] + "/" if "/" in remote else ".")
        host_errors = f"[ ! -d {name} ] || fail 'it is a folder'; [ -d {folder} ] || fail 'its folder is not there'"
        await self._guest(f'fail() {{ echo "$*" >&2; exit 1; }}; {host_errors}; umask 077; true >{quoted}', remote)
        try:
            async with self._told(remote) as channel:
                await channel.write_file(_encoded(partial), content)
            touch = f"touch -d @{modified} -- {quoted};" if modified is not None else ""
            same = f'sum=$(sha256sum <{quoted}) && [ "${{sum%% *}}" = {digest()} ]'
            script = f"{same} || {{ echo 'it arrived damaged: its SHA-256 is another' >&2; exit 1; }}"
            await self._guest(f"{script}; chmod {mode:o} -- {quoted}; {touch} mv -f -- {quoted} {name}", remote)
        except BaseException:
            with contextlib.suppress(Exception):
                await self._commands.run(["rm", "-f", "--", partial], timeout=10)
            raise

    async def _pull_file(self, remote: str, local: Path, *, mode: int, modified: int, size: int) -> None:
        target = local / Path(remote).name if local.is_dir() else local
        digest = hashlib.sha256()
        done = 0
        with _local(target), self._output_guard.file(target, mode=0o600) as file:

            def take(piece: bytes) -> None:
                nonlocal done
                digest.update(piece)
                write_sparse(file, piece)
                done += len(piece)
                self._progress(f"{self._name}: {remote} → {target}", done, size)

            async with self._told(remote) as channel:
                await channel.read_file(_encoded(remote), take)
            file.truncate(file.tell())
            there = (await self._guest(f"sha256sum <{shlex.quote(remote)}", remote)).partition(" ")[0]
            if there != digest.hexdigest():
                raise TransferError(f"{self._name}: {remote} changed meanwhile or arrived damaged: its SHA-256 differs")
            os.fchmod(file.fileno(), mode & 0o777)
            os.utime(file.fileno(), (modified, modified))

    # A folder.

    async def _push_tree(self, local: Path, remote: str) -> None:
        quoted, archive = shlex.quote(remote), f"{remote.rstrip('/')}.{secrets.token_hex(4)}.tar"
        with _local(local), tempfile.TemporaryFile(dir=self._scratch) as file:
            await asyncio.to_thread(pack, local, file)
            size = file.tell()
            file.seek(0)
            digest = hashlib.sha256()
            content = self._reading(file, f"{local} → {self._name}", size, digest.update)
            await self._place(archive, content, mode=0o600, digest=digest.hexdigest)
        unpack = f"mkdir -p -- {quoted} && tar -xpf {shlex.quote(archive)} -C {quoted}"
        await self._guest(f"{unpack}; s=$?; rm -f -- {shlex.quote(archive)}; exit $s", remote)

    async def _pull_tree(self, remote: str, local: Path) -> None:
        with _local(local), tempfile.TemporaryDirectory(dir=self._scratch) as folder:
            packed = await self._guest(_PACK.format(name=folder_name(), folder=shlex.quote(remote)), remote)
            archive, _, size = packed.strip().partition(" ")
            if not size.isdecimal():
                raise TransferError(f"{self._name}: {remote}: the guest's tar said {packed!r}")
            try:
                arrived = Path(folder) / "archive"
                await self._pull_file(archive, arrived, mode=0o600, modified=0, size=int(size))
            finally:
                await self._commands.run(["rm", "-f", archive], check=False, timeout=10)
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

    async def _guest(self, script: str, about: str) -> str:
        """What a script in the guest prints; its complaint is a `TransferError`."""
        done = await self._commands.run(script, check=False)
        if done.exit_code != 0:
            reason = "; ".join(tail(done.stderr_bytes)) or f"exit code {done.exit_code}"
            raise TransferError(f"{self._name}: {about}: {reason}")
        return done.stdout

    @contextlib.asynccontextmanager
    async def _told(self, path: str) -> AsyncIterator[Channel]:
        """The channel, whose errors about a path in the guest are told as ours."""
        try:
            yield await self._channels.channel()
        except ChannelLost as lost:
            self._channels.lose()
            lost.add_note(f"It was transferring {path}")
            raise
        except OSError as error:
            if error.filename is None:
                raise
            raise TransferError(f"{self._name}: {path}: {error.strerror}, in the guest") from None


def _encoded(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")


async def _one(content: bytes) -> AsyncIterator[bytes]:
    yield content


@contextlib.contextmanager
def _local(path: Path) -> Iterator[None]:
    """Errors about the host's files, as ours."""
    try:
        yield
    except (TransferError, TimeoutError):
        raise
    except (OSError, tarfile.TarError) as error:
        raise TransferError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
