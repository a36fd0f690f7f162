"""Owns the shell in the guest that the agent has started: a FIFO that it reads, and a file to which it appends which
of its jobs have ended.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Self, TypeVar

from pytest_readonly_vm.channels import helper, jobs
from pytest_readonly_vm.channels.channel import parts
from pytest_readonly_vm.channels.jobs import JobFiles
from pytest_readonly_vm.channels.qga import AgentRefusal, Qga
from pytest_readonly_vm.errors import ChannelLost
from pytest_readonly_vm.host.loop import cancel, quiet

T = TypeVar("T")

_TYPED_AT_ONCE = 4000  # bytes: less than PIPE_BUF, so a FIFO takes all of it or nothing
_MOST_UNREAD = 28 << 10  # bytes: a FIFO has room for 16 pages, and two pieces need not fit on one
_READ_AT_ONCE = 1 << 20
_LONGEST_END = 256  # bytes of a line that tells of an end
_FIRST_POLL = 0.001
_LONGEST_POLL = 0.1
_FULL = "Resource temporarily unavailable"
_TELLING = helper.Telling(r"$1 %d\n", take="true", give="/dev/null")  # a line of the list, to which all append

# The list of the ended jobs has a place of its own, to which it can be written when the jobs have filled theirs.
_START = (
    jobs.PLACE
    + r"""
_rv_hide 16m
mkfifo lines && exec 9<>lines 8>>ended || exit
_rv_settle
echo "$_rv_room" >FOLDER
command -v setsid >/dev/null && exec setsid /bin/sh <&9
exec /bin/sh <&9
"""
)
# Who cannot tell that a job has ended ends the shell: that is seen.
_TELL = r"""
_rv_tell() {
    _rv_x="$1 $2"
    [ -s "$3.out" ] && _rv_x="$_rv_x out"
    [ -s "$3.err" ] && _rv_x="$_rv_x err"
    echo "$_rv_x" >&8 || kill -KILL $$
}
"""


class Resident:
    """One such shell. For the loop.

    Attributes: `files`, those of its jobs; `folder`, a path by which the agent reaches them; `is_lost`, whether it is
    known that no jobs can be run any more.
    """

    def __init__(self, qga: Qga, name: str, parted: Mapping[str, Any]) -> None:
        """`parted` is what `part` told of one that goes on."""
        self.folder: str = parted["folder"]
        self.files = JobFiles(name, parted["room"], parted["number"])
        self.is_lost = False
        self._qga = qga
        self._name = name
        self._process: int = parted["process"]
        self._lines: int = parted["lines"]
        self._ended: int = parted["ended"]
        self._has_helper: bool = parted["has_helper"]
        self._rest = parted["rest"].encode("latin-1")  # of what has been read of the list of ended jobs
        self._typing = asyncio.Lock()
        self._unread = 0  # bytes that have been typed since it last said that it has read all
        self._jobs: dict[bytes, asyncio.Future[list[bytes]]] = {}
        self._watch: asyncio.Task[None] | None = None
        self._tidying: asyncio.Task[None] | None = None
        self._newest = 0.0

    @classmethod
    async def start(cls, qga: Qga, name: str) -> Self:
        """Start one.

        :raises AgentRefusal: the agent does not do it, or there is no place for its files.
        """
        folder_name = jobs.folder_name()
        process = await qga.start("/bin/sh", "-c", _START.replace("FOLDER", folder_name))
        resident = cls(qga, name, await _settled(qga, process, folder_name))
        await resident.type((jobs.FUNCTIONS + _TELL).encode())
        return resident

    def part(self) -> Mapping[str, Any]:
        """What is to be known of it to go on with it in a copy of the guest, as JSON can say it."""
        rest = self._rest.decode("latin-1")
        handles = {"process": self._process, "lines": self._lines, "ended": self._ended}
        files = {"folder": self.folder, "room": self.files.room, "number": self.files.number}
        return {"rest": rest, **handles, **files, "has_helper": self._has_helper}

    # What it reads.

    async def type(self, text: bytes) -> None:
        """Have the shell read a text; never half of it, whoever is cancelled, and one text after the other."""
        await asyncio.shield(self._begin_to_type(text))

    def _begin_to_type(self, text: bytes) -> asyncio.Task[None]:
        return quiet(asyncio.ensure_future(self._type(text)))

    async def _type(self, text: bytes) -> None:
        async with self._typing:
            if self._unread + len(text) > _MOST_UNREAD:  # so that its FIFO, which might take half of it, is never full
                nonce = self.expect()
                try:
                    await self._put(b"echo %s 0 >&8\n" % nonce)
                    await self.told(nonce)
                finally:
                    self.forget(nonce)
                self._unread = 0
            self._unread += len(text)
            await self._put(text)

    async def _put(self, text: bytes) -> None:
        for part in parts(text, _TYPED_AT_ONCE):
            while part:
                part = part[await self._until_taken(partial(self._qga.write, self._lines, part)) :]
            await self._until_taken(partial(self._qga.flush, self._lines))

    async def _until_taken(self, request: Callable[[], Awaitable[T]]) -> T:
        """A request to the shell's FIFO. One that is refused as that is full has done nothing, and is made again."""
        while True:
            try:
                return await request()
            except AgentRefusal as refusal:
                if _FULL not in str(refusal):
                    self.is_lost = True
                    raise self._started_anew(refusal) from None
                await asyncio.sleep(_FIRST_POLL)

    def _started_anew(self, refusal: AgentRefusal) -> ChannelLost:
        return ChannelLost(f"{self._name}: the guest agent was started anew, or its shell was killed: {refusal}")

    # What it tells.

    def expect(self) -> bytes:
        """A number that only a job to come has."""
        nonce = secrets.token_hex(16).encode()
        self._jobs[nonce] = asyncio.get_running_loop().create_future()
        return nonce

    async def told(self, nonce: bytes) -> list[bytes]:
        """What is told of a job's end, once it is.

        :raises ChannelError, GuestDied: nothing will be told.
        """
        self._look()
        return await asyncio.shield(self._jobs[nonce])

    def forget(self, nonce: bytes) -> bool:
        """The job is not waited for any more; tells whether it has ended."""
        return self._jobs.pop(nonce).done()

    def tidy(self, base: str, size: int) -> None:
        """The files of a job that has ended are not needed any more; there may be so many bytes in them."""
        self.files.ended(base, size)
        if self.files.are_large and not self.is_lost:
            self._tidying = self._begin_to_type(self.files.tidying())

    # The helper.

    async def keep_helper(self, program: bytes, *, idle: int, trial: bytes) -> None:
        if self._has_helper and await self._asked(trial) != helper.NONE:
            return
        await self.type(helper.keeping(program, idle=idle, telling=_TELLING))
        self._has_helper = await self._asked(trial) != helper.NONE

    async def ask_helper(self, message: bytes) -> bool:
        return self._has_helper and await self._asked(message) == 0

    async def _asked(self, message: bytes) -> int:
        nonce = self.expect()
        try:
            await self.type(helper.asking(nonce.decode(), message))
            return self.files.status(await self.told(nonce))
        finally:
            self.forget(nonce)

    def _look(self) -> None:
        """Watch for ends of jobs, from now on more closely again."""
        self._newest = asyncio.get_running_loop().time()
        if self._watch is None or self._watch.done():
            self._watch = asyncio.ensure_future(self._watch_ends())

    async def _watch_ends(self) -> None:
        """Tell the ends of jobs until none is waited for. Whatever ends this is told to all who wait."""
        end: Exception = ChannelLost(f"{self._name}: the channel was closed or opened anew meanwhile")
        try:
            await self._read_ends()
        except AgentRefusal as refusal:
            end = self._started_anew(refusal)
        except Exception as error:
            end = error
        finally:
            for ended in self._jobs.values():
                if not ended.done():
                    self.is_lost = True
                    ended.set_exception(end)
                    ended.exception()  # somebody who was cancelled will not ask for it

    async def _read_ends(self) -> None:
        while not all(ended.done() for ended in self._jobs.values()):
            read, _ = await self._qga.read(self._ended, _READ_AT_ONCE)
            *lines, rest = (self._rest + read).split(b"\n")
            self._rest = rest[-_LONGEST_END:]
            for line in lines:
                nonce, _, words = line.partition(b" ")
                if (ended := self._jobs.get(nonce)) and not ended.done():
                    ended.set_result(words.split())
            if not lines:
                # The longer the newest job has taken, the longer it may take: at most an eighth is lost in sleep.
                elapsed = asyncio.get_running_loop().time() - self._newest
                if elapsed > _LONGEST_POLL and await self._qga.has_ended(self._process):
                    raise ChannelLost(f"{self._name}: the agent's shell was killed in the guest")
                await asyncio.sleep(max(_FIRST_POLL, min(elapsed / 8, _LONGEST_POLL)))

    async def leave(self) -> None:
        """Let go of it; who still waits for a job is told so."""
        self.is_lost = True
        if self._watch is not None:
            await cancel(self._watch)


async def _settled(qga: Qga, process: int, name: str) -> Mapping[str, Any]:
    """What `Resident.part` tells, of one that has just been started: once there is the file that it makes last.

    Its working folder and its descriptors lead to what has no path. Where there is no /proc, there are paths.
    """
    own = f"/proc/{process}"
    ways = [(f"{own}/cwd", f"{own}/fd/8", f"{own}/fd/9")]
    ways += [(path, f"{path}/ended", f"{path}/lines") for place in jobs.PLACES for path in (f"{place}/{name}",)]
    while True:
        for folder, ended, lines in ways:
            try:
                told = await qga.open_file(f"{folder}/{name}", "r")
            except AgentRefusal:
                continue
            room, _ = await qga.read(told, _READ_AT_ONCE)
            await qga.close_file(told)
            if room.endswith(b"\n"):
                handles = {"lines": await qga.open_file(lines, "w"), "ended": await qga.open_file(ended, "r")}
                text = room.decode(errors="replace")
                fresh = {"number": 0, "rest": "", "has_helper": False}
                return {"folder": folder, "room": text, "process": process, **handles, **fresh}
        if await qga.has_ended(process):
            raise AgentRefusal(f"no shell with a place to write in {', '.join(jobs.PLACES)}")
        await asyncio.sleep(_FIRST_POLL)
