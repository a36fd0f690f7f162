"""Owns what is seen of a private network: captures, who talked to whom; and that what a test did to it has an end."""

import contextlib
import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar

from pytest_readonly_vm.channels.history import History
from pytest_readonly_vm.errors import SwitchDied, VmError
from pytest_readonly_vm.host.loop import LoopThread
from pytest_readonly_vm.image.output_guard import OutputGuard
from pytest_readonly_vm.machine.network_capture import Capture
from pytest_readonly_vm.machine.undoable import Undoable
from pytest_readonly_vm.network.switch_process import SwitchProcess
from pytest_readonly_vm.network.talk import Talk, dropped, table, talks

T = TypeVar("T", bound=Undoable)


class Observed:
    """A network on which a test looks; what the test has begun on it is ended with the test."""

    def __init__(self, name: str, switch: SwitchProcess, *, loop: LoopThread, output_guard: OutputGuard) -> None:
        self.name = name
        self.history = History()
        self.began = time.time()
        self._switch = switch
        self._loop = loop
        self._output_guard = output_guard
        self._hosts: dict[int, str] = {}
        """The names of all that have ever been on it, by their ports."""
        self._numbers = itertools.count(1)
        self._done: list[Undoable] = []
        """What the present test has done, whether it is on or not."""
        self._is_told = False
        self._cut: list[str] = []
        """Machines whose lines the switch has cut during the present test, and why."""
        switch.on_port_end = self._note_port_end

    def _note_port_end(self, port: int, why: str) -> None:
        if why:  # else its machine has ended, of which others tell
            entry = self.history.note("network", f"the line to {self._hosts.get(port, port)} is cut: {why}")
            self._cut.append(entry.what)

    @property
    def label(self) -> str:
        """What it is called in messages."""
        return self._switch.label

    def capture(self, path: str | os.PathLike[str]) -> Capture:
        """Write all frames to a file from now on, until the end of the context that this gives, or of the test.

        It is pcapng, which Wireshark, tshark and scapy read: each machine is an interface with its name, and what
        faults did to a frame is a comment. The file is there when the capture has ended; another of that name is
        replaced.

        :raises NetworkError: it cannot be written; its folder must exist; it must not be what machines read.
        :raises SwitchDied: there is no switch any more.
        """
        written = Path(path).absolute()
        return self.note_done(
            Capture(
                written,
                next(self._numbers),
                network=self.label,
                ask=self._switch.ask,
                loop=self._loop,
                output_guard=self._output_guard,
                entry=self.history.note("capture", f"captured to {written.name}"),
            )
        )

    def talk(self) -> tuple[Talk, ...]:
        """Who has sent how much to whom during the present test, the most first.

        :raises SwitchDied: there is no switch any more.
        """
        return talks(self._loop.run(self._switch.ask("talk")))

    def talk_table(self) -> str:
        """The same as a table, for people; nothing if nobody has sent anything.

        :raises SwitchDied: there is no switch any more.
        """
        return table(self.talk())

    def dropped(self) -> str:
        """How many frames the switch itself has dropped during the present test, and why; nothing if none.

        :raises SwitchDied: there is no switch any more.
        """
        return dropped(**self._loop.run(self._switch.ask("dropped")))

    def write_remembered(self, file: BinaryIO) -> int:
        """Write the last frames, up to 4 MiB of them, as pcapng; how many they are. The file is a real one.

        :raises NetworkError: they cannot be written.
        :raises SwitchDied: there is no switch any more.
        """
        frames: int = self._loop.run(self._switch.ask("dump", file.fileno()))
        return frames

    # The test.

    def note_done(self, one: T) -> T:
        """Remember what the present test has begun, for its end."""
        self._done.append(one)
        return one

    @property
    def done(self) -> tuple[Undoable, ...]:
        """What the present test has done to it, whether it is on or not."""
        return tuple(self._done)

    @property
    def has_news(self) -> bool:
        """Whether the present test has done something to it, or its switch has ended and nobody has heard of it."""
        return bool(self._done) or (self.death is not None and not self._is_told)

    def told(self) -> list[str]:
        """The same in words, with what it has come to so far."""
        for one in self._done:
            with contextlib.suppress(VmError):
                one.look()
        return [*map(str, self._done), *self._cut]

    def end_test(self, *, failed: bool) -> Iterator[BaseException]:
        """A test is over: end what it has begun and left on; what went wrong with that, each as an error.

        That the switch has ended is told to one test, unless that has heard of it (see `note_told`).

        :param failed: whether the test has failed, so that whether a fault was of use does not matter.
        """
        for one in reversed(self._done):
            if failed:
                error = one.abandon()
            else:
                error = None
                try:
                    one.end()
                except BaseException as raised:
                    error = raised
            if error is not None and not isinstance(error, SwitchDied):
                yield error
        if (death := self.death) is not None and not self._is_told:
            self._is_told = True
            yield death

    def begin_test(self) -> None:
        """Another test may begin: what is told of the network is that test's from now on."""
        self._done.clear()
        self._cut.clear()
        if self.death is None:
            with contextlib.suppress(VmError):
                self._loop.run(self._switch.ask("forget_talk"))

    def note_told(self) -> None:
        """If its switch has ended, the test has heard of it."""
        self._is_told = self._is_told or self.death is not None

    @property
    def death(self) -> SwitchDied | None:
        """That its switch has ended, if it has."""
        return None if self._switch.process.returncode is None else self._switch.death()
