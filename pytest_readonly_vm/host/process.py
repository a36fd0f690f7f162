"""Owns every process that runs beside this one: the confinement, the drained stderr, the verdict, the certain end.

One started here dies with this one, however this one dies. Tools that are waited for are `tool`'s.
"""

import asyncio
import contextlib
import os
import re
import shlex
import signal
import subprocess
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

from pytest_readonly_vm.errors import GuestDied, QemuDied, StartFailed, VmError
from pytest_readonly_vm.host.confinement import Confinement
from pytest_readonly_vm.host.loop import Interruption, LoopThread, unless
from pytest_readonly_vm.host.os_errors import explain
from pytest_readonly_vm.host.seal import Bounds, Landlock
from pytest_readonly_vm.host.workspace import COOKIE

T = TypeVar("T")
E = TypeVar("E", bound=VmError)

_STDERR_KEPT = 256 * 1024
_STDERR_LINES_SHOWN = 20
_DRAIN_PATIENCE = 1.0
# "warning: fd: migration to a file …", "qemu-system-x86_64: -mon …: warning: …", "(qemu:1): GLib-WARNING **: …".
_NO_CAUSE = re.compile(r"(?:^|: )(?:warning|info): |-(?:WARNING|Message) \*\*", re.IGNORECASE)


def last_words(stderr: str) -> list[str]:
    """The line of a program's stderr that says why it ended, if there is one. A warning is no reason to end."""
    return [line for line in stderr.strip().splitlines() if line and not _NO_CAUSE.search(line)][-1:]


def ending(returncode: int) -> str:
    """How a process ended, in words: ``was killed by SIGSEGV``, ``exited with status 1``."""
    if returncode >= 0:
        return f"exited with status {returncode}"
    try:
        return f"was killed by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"was killed by signal {-returncode}"


class Spawner:
    """Starts processes from one thread that lives as long as it does.

    The kernel sends a parent-death signal when the *thread* that forked ends (prctl(2)), so a process must not be
    started from a thread that ends early. And a Ctrl-C or a timeout's signal only ever interrupts the main thread, so
    here a process cannot be forked and then forgotten.
    """

    def __init__(self, loop: LoopThread) -> None:
        self._loop = loop
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="readonly-vm spawner")
        self._alive: set[Process] = set()

    def start(
        self,
        argv: Sequence[str],
        *,
        name: str,
        env: Mapping[str, str],
        pass_fds: Sequence[int],
        ruleset: int | None,
    ) -> "Process":
        """Start a confined process, in a session of its own so that a Ctrl-C in the terminal does not reach it.

        :raises OSError: it cannot be started.
        """
        return self._thread.submit(self._start, tuple(argv), name, env, tuple(pass_fds), ruleset).result()

    def start_confined(
        self,
        argv: Sequence[str],
        *,
        name: str,
        env: Mapping[str, str],
        pass_fds: Sequence[int],
        run_folder: Path,
        bounds: Bounds | None,
    ) -> "Process":
        """Start a process that belongs to a run, and is kept by Landlock within bounds, if there are any.

        :param run_folder: the run's own, by whose name a later run knows what this one has left.
        :raises StartFailed: it cannot be started.
        """
        try:
            with ExitStack() as opened:
                landlock = opened.enter_context(contextlib.closing(Landlock(bounds))) if bounds else None
                return self.start(
                    argv,
                    name=name,
                    env={**env, COOKIE: str(run_folder)},
                    pass_fds=pass_fds,
                    ruleset=landlock.fd if landlock else None,
                )
        except OSError as error:
            raise StartFailed(f"{name}: {argv[0]} could not be started: {explain(error) or error}") from None

    def _start(
        self, argv: tuple[str, ...], name: str, env: Mapping[str, str], pass_fds: tuple[int, ...], ruleset: int | None
    ) -> "Process":
        confinement = Confinement(ruleset)
        try:
            popen = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=env,
                pass_fds=pass_fds,
                start_new_session=True,
                preexec_fn=confinement,
            )
        except subprocess.SubprocessError:
            raise confinement.failure() from None
        try:
            process = Process(self._loop, popen, name, argv, self._alive.discard)
        except BaseException:  # no descriptor is left for it, for one: then nobody would ever hear of it again
            os.killpg(popen.pid, signal.SIGKILL)
            with popen:  # which waits for its end
                raise
        self._alive.add(process)
        return process

    def close(self) -> None:
        """Kill what is still alive, whoever forgot it, and end the thread."""
        with ExitStack() as whatever_fails:
            whatever_fails.callback(self._thread.shutdown)
            self._thread.submit(lambda: None).result()
            for process in tuple(self._alive):
                whatever_fails.callback(process.kill)


class Process:
    """A running process: its end as an event, the tail of its stderr, and the ways to end it."""

    def __init__(
        self,
        loop: LoopThread,
        popen: subprocess.Popen[bytes],
        name: str,
        argv: tuple[str, ...],
        on_end: Callable[["Process"], None],
    ) -> None:
        self.name = name
        self.what = "QEMU"
        """What it is, for people."""
        self.argv = argv
        self.pid = popen.pid
        self.witnesses: list[Callable[[VmError], str]] = []
        """Functions, called on the loop when the process has ended, that each give a piece of evidence."""
        self.drains: list[Callable[[], Awaitable[None]]] = []
        """Coroutine functions, run on the loop before anybody hears of the end, to take in what is still on its way."""
        self.coroner: Callable[[str], GuestDied] = QemuDied
        """Makes, of a sentence that says how the process ended, the error for whoever waited; on the loop."""
        self._loop = loop
        self._popen = popen
        self._on_end = on_end
        self._burial: asyncio.Task[None] | None = None
        self._stderr = bytearray()
        self._pidfd = os.pidfd_open(popen.pid)
        self._pidfd_lock = threading.Lock()
        self._end: Interruption = loop.loop.create_future()
        loop.loop.call_soon_threadsafe(self._watch)

    # On the loop's thread.

    def _watch(self) -> None:
        assert self._popen.stderr is not None
        try:
            os.set_blocking(self._popen.stderr.fileno(), False)
            self._loop.loop.add_reader(self._popen.stderr.fileno(), self._drain)
            self._loop.loop.add_reader(self._pidfd, self._reap)
        except OSError as error:  # too many are watched; and of one that is not, nobody would ever hear the end
            self._stderr += f"ended, as it cannot be watched: {error}\n".encode()
            self.signal(signal.SIGKILL)
            self._reap()

    def _drain(self) -> None:
        assert self._popen.stderr is not None
        try:
            while data := os.read(self._popen.stderr.fileno(), 65536):
                self._stderr += data
                del self._stderr[:-_STDERR_KEPT]
        except BlockingIOError:
            return
        self._loop.loop.remove_reader(self._popen.stderr.fileno())

    def _reap(self) -> None:
        self._loop.loop.remove_reader(self._pidfd)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)  # its children; until the wait below nobody else can have this id
        with self._pidfd_lock:
            self._popen.wait()
            os.close(self._pidfd)
            self._pidfd = -1
        assert self._popen.stderr is not None
        self._drain()
        self._loop.loop.remove_reader(self._popen.stderr.fileno())
        self._popen.stderr.close()
        self._burial = self._loop.loop.create_task(self._bury())

    async def _bury(self) -> None:
        for drain in self.drains:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_DRAIN_PATIENCE):
                    await drain()
        self._on_end(self)
        self._end.set_result(self.death)

    async def ended(self) -> int:
        """Wait for the end; on the loop. The return code is negative for a signal, as in `subprocess`."""
        await asyncio.wait((self._end,))
        assert self._popen.returncode is not None
        return self._popen.returncode

    async def race(self, work: Awaitable[T]) -> T:
        """Await something, on the loop, unless the process ends first.

        :raises GuestDied: the process ended first, or had ended.
        """
        return await unless(self._end, work)

    async def death_or(self, error: VmError, *, patience: float = 2.0) -> VmError:
        """What a broken connection means: nearly always that the process ends, which may take a moment to show."""
        return self.death() if await self.wait_ended(patience) else error

    def death(self) -> GuestDied:
        """The error for whoever waited for a process that has ended, with what is left of it as evidence."""
        return self.with_evidence(self.coroner(f"{self.name}: QEMU {self.verdict()}"))

    def with_evidence(self, error: E) -> E:
        """Add what is known of the process to an error, as notes; on the loop."""
        for witness in self.witnesses:
            if words := witness(error):
                error.add_note(words)
        if complaints := self.stderr().strip().splitlines():
            error.add_note("\n".join([f"{self.what}'s stderr:", *complaints[-_STDERR_LINES_SHOWN:]]))
        return error

    # On any thread.

    @property
    def returncode(self) -> int | None:
        """None while it runs, and once it has ended as in `subprocess`."""
        return self._popen.returncode if self._end.done() else None

    def stderr(self) -> str:
        """The last 256 KiB that the process wrote to its stderr."""
        return bytes(self._stderr).decode(errors="replace")

    def verdict(self) -> str:
        """How it ended, with its last words: ``exited with status 1: Could not open …``."""
        if self._popen.returncode is None:
            return "is running"
        return ": ".join([ending(self._popen.returncode), *last_words(self.stderr())])

    def command_line(self) -> str:
        """What was started, quoted so that it can be pasted into a shell (descriptors apart, which are not there)."""
        return shlex.join(self.argv)

    def busy(self) -> float:
        """Seconds that its threads have computed or waited for a processor so far; 0 where the kernel does not tell."""
        spent = 0
        with contextlib.suppress(OSError):
            for thread in os.scandir(f"/proc/{self.pid}/task"):
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended in this moment
                    computed, waited, _ = Path(thread.path, "schedstat").read_text().split()
                    spent += int(computed) + int(waited)
        return spent / 1e9

    def when_ended(self, call: Callable[[], object]) -> None:
        """Have a function called on the loop once the process has ended, also if it has already."""
        self._loop.loop.call_soon_threadsafe(self._end.add_done_callback, lambda _: call())

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens when the process has ended. Its id cannot be another's by now."""
        with self._pidfd_lock, contextlib.suppress(ProcessLookupError):
            if self._pidfd != -1:
                signal.pidfd_send_signal(self._pidfd, number)

    async def wait_ended(self, timeout: float) -> bool:
        """Whether it ended within `timeout` seconds; on the loop."""
        await asyncio.wait((self._end,), timeout=timeout)
        return self._end.done()

    async def end(self) -> None:
        """SIGTERM, after a second SIGKILL; on the loop.

        :raises TimeoutError: the kernel did not end the process within ten seconds of the SIGKILL.
        """
        for number, patience in ((signal.SIGTERM, 1.0), (signal.SIGKILL, 10.0)):
            if not self._end.done():
                self.signal(number)
            if await self.wait_ended(patience):
                return
        raise TimeoutError(f"{self.name}: process {self.pid} survived SIGKILL for 10 s (it hangs in the kernel)")

    def kill(self) -> None:
        """SIGKILL, and wait until the process is gone, at most ten seconds."""
        self.signal(signal.SIGKILL)
        self._loop.run(self.wait_ended(10.0))
