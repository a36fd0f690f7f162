"""The channel over a shell, with a shell of this computer at the other end, whose jobs have a folder on a disk."""

import asyncio
import contextlib
import hashlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Iterator
from pathlib import Path
from typing import TypeVar, cast

import pytest

from pytest_readonly_vm.channels.jobs import PLACES
from pytest_readonly_vm.channels.port import Port, Shell
from pytest_readonly_vm.errors import ChannelError, ChannelLost

T = TypeVar("T")

SHELLS = [argv for argv in (["dash"], ["busybox", "sh"], ["bash", "--posix"]) if shutil.which(argv[0])]
PATIENCE = 30


class LocalPort:
    """What a `Port` is to a channel, of a program on this computer."""

    def __init__(self, line: socket.socket) -> None:
        line.setblocking(False)
        self.losses = 0
        self.was_open = True
        self._line = line

    async def race(self, work: Awaitable[T], *, since: int) -> T:
        assert since == self.losses
        return await work

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._line, data)

    async def piece(self) -> bytes:
        await asyncio.sleep(0)  # for others to have their turn also when there is something to be read
        if data := await asyncio.get_running_loop().sock_recv(self._line, 1 << 16):
            return data
        raise ChannelLost("the shell has ended")

    async def close(self) -> None:
        self._line.close()


@pytest.fixture(params=SHELLS, ids=[argv[0] for argv in SHELLS])
def line(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    """To a shell that cannot mount anything."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        shell = subprocess.Popen(
            list(request.param), stdin=theirs.fileno(), stdout=theirs.fileno(), start_new_session=True
        )
        ours.sendall(b"mount() { false; }\n")
        try:
            yield ours
        finally:
            os.killpg(shell.pid, signal.SIGKILL)
            shell.wait()


@contextlib.asynccontextmanager
async def opened(line: socket.socket) -> AsyncIterator[Shell]:
    shell = Shell(cast(Port, LocalPort(line)), "vm")
    folders = []
    try:
        async with asyncio.timeout(PATIENCE):
            await shell.open()
            folders.append(shell._files.room)
            yield shell
    finally:
        folders.append(shell._files.room)
        await shell.close()
        for folder in folders:
            remove(Path(folder))


async def run(shell: Shell, script: str, data: bytes = b"") -> tuple[int, bytes, bytes]:
    stdout, stderr = bytearray(), bytearray()
    code = await shell.execute(script.encode(), input=data, stdout=stdout.extend, stderr=stderr.extend)
    return code, bytes(stdout), bytes(stderr)


def remove(folder: Path) -> None:
    """Remove a folder into which a shell may write at the same time; its name comes from the shell under test."""
    assert folder.parent in map(Path, (*PLACES, "/dev")), folder
    assert str(folder) not in PLACES
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=True)


async def one(data: bytes) -> AsyncIterator[bytes]:
    yield data


HELPER = b"""#!/usr/bin/env python3
import os
status = 3
message = b""
while piece := os.read(0, 224 - len(message)):
    message += piece
    if len(message) == 224:
        status = 0 if message.startswith(b"good") else 1
        os.write(1, message[114:] if status else message[4:114])
        os.write(4, b"\\n")
        message = b""
os._exit(status)
"""


def test_a_helper_waits_beside_the_jobs(line: socket.socket) -> None:
    async def main() -> None:
        async with opened(line) as shell:
            assert not await shell.ask_helper(b"good")
            for _ in range(2):  # the second time it is there
                await shell.keep_helper(HELPER, idle=3, trial=b"bad\n")
                assert (await shell.part() or {})["has_helper"]
            assert [await shell.ask_helper(message) for message in (b"good", b"bad\n", b"good")] == [True, False, True]
            assert await run(shell, "ls /proc/self/fd; pgrep -P $$ -fc readonly-vm-helpe[r]") == (
                0,
                b"0\n1\n2\n3\n1\n",
                b"",
            )
            assert await run(shell, "pkill -KILL -P $$ -f readonly-vm-helpe[r]") == (0, b"", b"")
            assert not await shell.ask_helper(b"good")
            await shell.keep_helper(HELPER, idle=3, trial=b"bad\n")
            await shell.open()  # in another place, which that one does not know
            assert (await run(shell, "pgrep -P $$ -f readonly-vm-helpe[r]"))[0] == 1
            await shell.keep_helper(HELPER, idle=3, trial=b"bad\n")
            assert await shell.ask_helper(b"good")
            assert await run(shell, "pkill -KILL -P $$ -f readonly-vm-helpe[r]") == (0, b"", b"")
            await shell.keep_helper(b"no program", idle=3, trial=b"bad\n")
            assert not await shell.ask_helper(b"good")
            assert await run(shell, "echo all the same") == (0, b"all the same\n", b"")

    asyncio.run(main())


def test_a_helper_tells_nothing_in_the_midst_of_what_a_job_has_printed(line: socket.socket) -> None:
    size = 8 << 20

    async def main() -> None:
        async with opened(line) as shell:
            await shell.keep_helper(HELPER, idle=3, trial=b"bad\n")
            printed = bytearray()
            begun = asyncio.Event()

            def take(piece: bytes) -> None:
                printed.extend(piece)
                begun.set()

            script = f"head -c {size} /dev/zero".encode()
            job = asyncio.ensure_future(shell.execute(script, input=b"", stdout=take, stderr=bytes))
            await begun.wait()
            await shell.keep_helper(HELPER, idle=3, trial=b"bad\n")  # which does not wait for that
            asked = asyncio.ensure_future(shell.ask_helper(b"good"))
            assert not job.done()
            assert await job == 0
            assert printed == bytes(size)
            assert await asked

    asyncio.run(main())


def test_a_script_has_nothing_of_ours(line: socket.socket) -> None:
    async def main() -> None:
        async with opened(line) as shell:
            assert await run(shell, 'pwd; echo "$#$1"; wc -c; exit 3') == (3, b"/\n0\n0\n", b"")
            folder = Path(shell._files.room)
            assert await run(shell, f"ls -l /proc/self/fd | grep -c {folder}") == (0, b"1\n", b"")  # stderr

    asyncio.run(main())


def test_what_arrives_is_what_was_sent(line: socket.socket, tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(line) as shell:
            data = os.urandom(1 << 20)
            digest = hashlib.sha256(data).hexdigest().encode()
            assert await run(shell, "sha256sum", data) == (0, digest + b"  -\n", b"")
            await shell.write_file(os.fsencode(tmp_path / "file"), one(data))
            assert (tmp_path / "file").read_bytes() == data
            back = bytearray()
            await shell.read_file(os.fsencode(tmp_path / "file"), back.extend)
            assert back == data
            for code, printed, _ in await asyncio.gather(*(run(shell, f"seq {n} 100000") for n in range(1, 5))):
                first = int(printed.split(maxsplit=1)[0])
                assert (code, printed) == (0, "".join(f"{n}\n" for n in range(first, 100001)).encode())

    asyncio.run(main())


def test_what_is_printed_on_both_streams_arrives_to_the_byte(line: socket.socket) -> None:
    async def main() -> None:
        async with opened(line) as shell:
            texts = [b"", b"a\0b\n\n", b"\0\xff", b"\0", b"plain\t\\n%s *\n\n", b" no end ", b"x" * 1024, b"\n" * 1025]
            texts += [bytes(range(1, 256)), b"\x81\x88\r\n", "é\n".encode()]
            for out, err in zip(texts, reversed(texts), strict=True):
                quoted = ["".join(f"\\{byte:03o}" for byte in text) for text in (out, err)]
                script = "printf '{}'; printf '{}' >&2; exit 3".format(*quoted)
                assert await run(shell, script) == (3, out, err)
            # Those who open it anew have a position of their own there.
            assert await run(shell, "echo longer; echo more >/dev/stdout") == (0, b"more\n", b"")
            assert await run(shell, "echo longer; echo more >>/dev/stdout") == (0, b"longer\nmore\n", b"")

    asyncio.run(main())


def test_files_are_tidied_away_when_their_job_has_ended(line: socket.socket) -> None:
    async def main() -> None:
        async with opened(line) as shell:
            folder = Path(shell._files.room)
            long = asyncio.ensure_future(
                run(shell, f"echo hello; until [ -e {folder}/go ]; do sleep .05; done; echo bye")
            )
            for _ in range(150):
                assert await run(shell, ":") == (0, b"", b"")
            assert len(list(folder.iterdir())) < 200
            for _ in range(4):
                assert len((await run(shell, "head -c 3000000 /dev/zero"))[1]) == 3_000_000
            async with asyncio.timeout(PATIENCE):
                while any(path.stat().st_size > 1 << 20 for path in folder.iterdir()):
                    await run(shell, ":")
            (folder / "go").touch()
            assert await long == (0, b"hello\nbye\n", b"")

    asyncio.run(main())


@pytest.mark.parametrize("insult", ["removed", "emptied", "replaced", "moved"])
def test_a_folder_that_is_lost_is_told_and_there_is_another(line: socket.socket, insult: str) -> None:
    async def main() -> None:
        async with opened(line) as shell:
            folder = Path(shell._files.room)
            running = asyncio.ensure_future(run(shell, f"until [ -e /proc/{os.getpid()}/nothing ]; do sleep .05; done"))
            await run(shell, ":")
            if insult == "moved":
                folder.rename(f"{folder}.old")  # which does not matter
                assert await run(shell, "echo hello; exit 3") == (3, b"hello\n", b"")
                folder = Path(f"{folder}.old")
            remove(folder)
            if insult in ("emptied", "replaced"):
                folder.mkdir()
            with pytest.raises(ChannelLost, match=r"folder for its streams .* in the guest \((/\w+)+\)$"):
                await run(shell, "echo hello")
            assert not shell.is_open()
            await shell.open()
            with pytest.raises(ChannelLost, match=r"opened anew|result is lost"):
                await running
            assert await run(shell, "cat; exit 3", b"hello") == (3, b"hello", b"")
            remove(folder)

    asyncio.run(main())


def test_an_input_without_a_place_is_told(line: socket.socket) -> None:
    async def main() -> None:
        async with opened(line) as shell:
            remove(Path(shell._files.room))
            with pytest.raises(ChannelLost, match="result is lost"):
                await run(shell, "cat", b"hello")
            with pytest.raises(ChannelLost, match="result is lost"):
                await shell.read_file(b"/etc/passwd", bytes)

    asyncio.run(main())


def test_a_status_that_is_none_is_told_to_all_at_once(line: socket.socket) -> None:
    async def main() -> None:
        async with opened(line) as shell:
            waiting = asyncio.ensure_future(run(shell, "sleep 600"))
            await run(shell, ":")
            await shell._type(b"_rv_tell() { printf '\\n%s <\\n\\n%s -\\n\\n%s -7! >\\n' $1 $1 $1 >&8; }\n")
            with pytest.raises(ChannelError, match="tells no exit code of a command, but b'-7! >'"):
                await run(shell, "true")
            with pytest.raises(ChannelError, match="tells no exit code"):
                await waiting
            assert not shell.is_open()

    asyncio.run(main())


def test_odd_lines_are_passed_over(line: socket.socket) -> None:
    async def main() -> None:
        async with opened(line) as shell:
            await shell._type(b"printf '\\n\\n \\n%s <\\n\\377%s\\n' 0123456789abcdef0123456789abcdef x >&8\n")
            assert await run(shell, "echo hello") == (0, b"hello\n", b"")

    asyncio.run(main())


def test_a_sink_that_refuses_is_told_to_its_owner_only(line: socket.socket) -> None:
    def refuse(_: bytes) -> None:
        raise OSError("no space left here")

    async def main() -> None:
        async with opened(line) as shell:
            with pytest.raises(OSError, match="no space left here"):
                await shell.execute(b"seq 100000", input=b"", stdout=refuse, stderr=bytes)
            assert await run(shell, "echo hello") == (0, b"hello\n", b"")

    asyncio.run(main())


def is_gone(process: bytes) -> bool:
    try:
        return Path("/proc", process.decode().strip(), "stat").read_text().rpartition(") ")[2].startswith("Z")
    except FileNotFoundError:
        return True


ORPHAN = "(sleep 600 & echo $!)"
WAITING = "read -r x x x p x </proc/self/stat; kill -KILL $p"


@pytest.mark.parametrize("before", ["", f"{WAITING}; "], ids=["", "who waits for it is dead"])
def test_cancelling_kills_also_what_is_an_orphan_and_tells_what_was_printed(line: socket.socket, before: str) -> None:
    async def main() -> None:
        async with opened(line) as shell:
            spared = (await run(shell, ORPHAN))[1]
            printed = bytearray()
            script = f"{before}{ORPHAN}; : >{shell._files.room}/go; sleep 600".encode()
            running = asyncio.ensure_future(shell.execute(script, input=b"", stdout=printed.extend, stderr=bytes))
            await run(shell, f"until [ -e {shell._files.room}/go ]; do sleep 0.02; done")
            running.cancel()
            async with asyncio.timeout(5):
                with pytest.raises(asyncio.CancelledError):
                    await running
                while not is_gone(bytes(printed)):
                    await asyncio.sleep(0.01)
            assert not is_gone(spared)
            os.kill(int(spared), signal.SIGKILL)

    asyncio.run(main())


def test_what_cannot_be_sent_is_told(line: socket.socket) -> None:
    async def main() -> None:
        async with opened(line) as shell:
            await shell._type(b"cat() { false; }\n")
            assert await run(shell, "exit 7") == (7, b"", b"")
            with pytest.raises(ChannelError, match=r"no `cat` that works; the exit code was 7"):
                await run(shell, "printf %2000s hello; exit 7")
            for cat in ('command cat "$1" "$2"', 'command cat "$@"'):
                await shell._type(f"cat() {{ {cat}; false; }}\n".encode())
                with pytest.raises(ChannelError, match=r"no `cat` that works; the exit code was 7"):
                    await run(shell, "printf %2000s hello; echo there >&2; exit 7")
            await shell._type(b"unset -f cat\n")
            assert await run(shell, "echo hello") == (0, b"hello\n", b"")

    asyncio.run(main())
