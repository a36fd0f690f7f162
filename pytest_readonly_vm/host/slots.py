"""Owns the sharing of this host: one budget of memory and CPUs for the machines of all pytest processes of a user.

A request is an empty file in a folder that those processes share. Its name says everything,
``TICKET.PID.MEMORY.CPUS.waiting`` or ``….held``, so that nothing can be half written and `ls` shows the state of
affairs. Its lock says that whoever made it lives: the kernel drops it with the process, however that ends. The ticket
is the time of asking, so the waiting ones are a queue. Knows nothing of machines.
"""

import contextlib
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, Self, TypeVar

from pytest_readonly_vm.errors import HostError
from pytest_readonly_vm.host.budget import Budget
from pytest_readonly_vm.host.locks import Lock, is_stopped, try_lock, wait_for_lock
from pytest_readonly_vm.host.os_errors import explain

T = TypeVar("T")

_NAME = re.compile(r"([0-9]+)\.([0-9]+)\.([0-9]+)\.([0-9]+)\.(held|waiting)")
_GLANCE = 0.02
_GLANCES_PER_LOOK = 5
_STOPPED = 3.0


@dataclass(frozen=True, slots=True)
class _Request:
    """What the name of a file says."""

    ticket: int
    pid: int
    memory: int
    cpus: int

    def file_name(self, state: Literal["held", "waiting"]) -> str:
        return f"{self.ticket}.{self.pid}.{self.memory}.{self.cpus}.{state}"


class Slot:
    """A machine's share of the budget, until `release` or the end of the process. A context manager."""

    def __init__(self, give_back: Callable[[], None]) -> None:
        self._give_back = give_back

    def release(self) -> None:
        """Give it back. Nothing happens the second time, nor in a forked child, as the slot is not the child's."""
        self._give_back()

    def parts(self, count: int) -> "list[Slot]":
        """So many that stand for this one, which is given back with the last of them."""
        left = set(range(count))

        def give_back(number: int) -> None:
            left.discard(number)
            if not left:
                self.release()

        return [Slot(partial(give_back, number)) for number in range(count)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Slots:
    """The budget as one process sees it. Others may go by another one: each holds its own against the sum of all.

    For any thread but the loop's, which `take` would block.
    """

    def __init__(self, folder: Path, budget: Budget) -> None:
        """`folder` exists, is this user's alone, and nobody else locks it or puts files into it."""
        self.budget = budget
        self._folder = folder
        self._locks: dict[_Request, Lock] = {}
        # A fork shares the locks, and a child that is no new program would hold them when we are dead.
        os.register_at_fork(after_in_child=self._disown)

    def take(self, memory: int, cpus: int, *, label: str, on_wait: Callable[[str], None]) -> Slot:
        """Wait until `memory` bytes and `cpus` CPUs are free and all who asked before are served, then take them.

        A process that has a slot never waits, so that no two that need several machines wait for each other. More than
        the whole budget is given to whoever would be alone.

        :param label: whom it is for, for messages.
        :param on_wait: called with a sentence when it cannot be had at once, and again when a process that has some of
            it stands still, as by Ctrl-Z: then somebody has to let that go on, or to end it.
        :raises HostError: the folder is gone, full or not to be written. Going on without a slot would bring the
            swapping back that the budget is there to prevent, and nobody would know why.
        """
        request = _Request(time.monotonic_ns(), os.getpid(), memory, cpus)
        try:
            told: set[int] | None = None
            while obstacle := self._alone(self._hold, request):
                stopped = obstacle.stopped()
                if told is None or stopped - told:
                    on_wait(f"{label}: {obstacle.describe(stopped)}")
                told = stopped.union(told or ())
                self._await_change()
            return Slot(partial(self._leave, request))
        except BaseException:
            self._leave(request)
            raise

    def take_spare(self, memory: int, cpus: int) -> Slot | None:
        """Take what nobody else wants: None when it does not fit into the budget, or when anybody waits.

        Having a slot is no privilege here, so a process cannot grow by preparing machines that it does not need yet.

        :raises HostError: as `take` does.
        """
        request = _Request(time.monotonic_ns(), os.getpid(), memory, cpus)
        try:
            return Slot(partial(self._leave, request)) if self._alone(self._hold_spare, request) else None
        except BaseException:
            self._leave(request)
            raise

    def _alone(self, act: Callable[[_Request], T], request: _Request) -> T:
        """Look and act as one step, under the folder's own lock.

        Or without it, after three seconds: so long keeps it only who was stopped in the midst, and what can come of
        that is a machine too many.
        """
        try:
            lock = wait_for_lock(self._folder, patience=_STOPPED)
            try:
                return act(request)
            finally:
                if lock is not None:
                    try:
                        lock.release()
                    finally:
                        lock.release()  # as an interrupt may have come before the first of these had begun
        except OSError as error:
            raise HostError(
                f"{self._folder} cannot be used to share this host's memory and CPUs: {explain(error)}"
            ) from None

    def _hold(self, request: _Request) -> "_Obstacle | None":
        """Join the queue or move up in it: None when the request is held now, else why it is not."""
        if request not in self._locks:
            self._enter(request, "waiting")
        os.utime(self._locks[request].descriptor)  # a sign that we still ask
        held, waiting = self._requests()
        before = [other for other in waiting if other.ticket < request.ticket]
        # Who holds something while waiting for more may wait for ever for somebody who does the same. So whoever holds
        # something gets more at once, even beyond the budget.
        first_of_process = all(other.pid != request.pid for other in held)
        if first_of_process and (before or (held and not self._fits(request, held))):
            return _Obstacle(request, held, before, self.budget)
        (self._folder / request.file_name("waiting")).rename(self._folder / request.file_name("held"))
        return None

    def _hold_spare(self, request: _Request) -> bool:
        held, waiting = self._requests()
        if free := not waiting and self._fits(request, held):
            self._enter(request, "held")
        return free

    def _fits(self, request: _Request, held: list[_Request]) -> bool:
        memory = request.memory + sum(other.memory for other in held)
        cpus = request.cpus + sum(other.cpus for other in held)
        return memory <= self.budget.memory and cpus <= self.budget.cpus

    def _enter(self, request: _Request, state: Literal["held", "waiting"]) -> None:
        path = self._folder / request.file_name(state)
        while (lock := try_lock(path, make=0o600)) is None:  # until it is locked it is a dead process's file to others
            pass
        self._locks[request] = lock

    def _leave(self, request: _Request) -> None:
        if request.pid != os.getpid():
            return
        # Without a name it does not count. Both names, and known lock or not: an interrupt may come anywhere.
        for state in ("held", "waiting"):
            with contextlib.suppress(OSError):
                (self._folder / request.file_name(state)).unlink()
        if (lock := self._locks.pop(request, None)) is not None:
            lock.release()

    def _disown(self) -> None:
        for lock in self._locks.values():
            lock.release()
        self._locks.clear()

    def _requests(self) -> tuple[list[_Request], list[_Request]]:
        """Those that are held, and those that wait. What the dead left is removed, what is not ours is passed over."""
        held, waiting = [], []
        for path in self._folder.iterdir():
            if not (match := _NAME.fullmatch(path.name)):
                continue
            with contextlib.suppress(OSError):
                if (lock := try_lock(path)) is not None:
                    try:
                        lock.remove()
                    finally:
                        lock.release()  # as an interrupt may have come before the other began
                    continue
                asked = path.stat().st_mtime
                request = _Request(*map(int, match.groups()[:4]))
                if match[5] == "held":
                    held.append(request)
                elif time.time() - asked < _STOPPED:
                    waiting.append(request)  # else as by Ctrl-Z: nobody should have to wait behind it
        return held, waiting

    def _changed(self) -> int:
        """When a name last came or went."""
        try:
            return self._folder.stat().st_mtime_ns
        except OSError:
            return 0

    def _await_change(self) -> None:
        """Sleep until a name comes or goes, but at most 0.1 s, as the death of a process leaves its names there.

        No event tells of both: a thread can wait for one lock only, and the standard library has no inotify. A glance
        costs one `stat`.
        """
        before = self._changed()
        for _ in range(_GLANCES_PER_LOOK):
            time.sleep(_GLANCE)
            if self._changed() != before:
                break


@dataclass(frozen=True, slots=True)
class _Obstacle:
    """Why a request has to wait: what is held, and who asked before."""

    request: _Request
    held: list[_Request]
    before: list[_Request]
    budget: Budget

    def stopped(self) -> set[int]:
        """The processes that hold something and stand still."""
        return {pid for pid in {other.pid for other in self.held} if is_stopped(pid)}

    def describe(self, stopped: Set[int]) -> str:
        request, budget = self.request, self.budget
        cpus = "1 CPU" if request.cpus == 1 else f"{request.cpus} CPUs"
        sentence = (
            f"waiting for {request.memory >> 20} MiB and {cpus}: "
            f"{sum(other.memory for other in self.held) >> 20} of {budget.memory >> 20} MiB and "
            f"{sum(other.cpus for other in self.held)} of {budget.cpus} CPUs are in use"
        )
        memory: Counter[int] = Counter()
        for other in self.held:  # each of which may be for several machines
            memory[other.pid] += other.memory >> 20
        if memory:
            holders = (
                f"{pid} ({size} MiB{'; it is stopped' if pid in stopped else ''})"
                for pid, size in sorted(memory.items())
            )
            sentence += f" by pytest process{'es' if len(memory) > 1 else ''} {', '.join(holders)}"
        return sentence + (f"; {len(self.before)} asked before" if self.before else "")


def processes_in(folder: Path) -> tuple[set[int], set[int]]:
    """Those that have something of the budget, and those that wait for it, by the names in such a folder alone.

    One that has just died may be among them.
    """
    having, waiting = set[int](), set[int]()
    with contextlib.suppress(OSError):  # nobody has asked for anything yet
        for path in folder.iterdir():
            if match := _NAME.fullmatch(path.name):
                (having if match[5] == "held" else waiting).add(int(match[2]))
    return having, waiting
