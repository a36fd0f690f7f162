"""Owns the recording of what a guest writes to a disk, and the cuts that can be made of it afterwards."""

import contextlib
import os
import shutil
import tempfile
import time
import weakref
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_readonly_vm.channels.history import HistoryEntry
from pytest_readonly_vm.disks.cut_disk import CutDisk
from pytest_readonly_vm.disks.cut_layers import CutLayers
from pytest_readonly_vm.disks.cut_rules import CutRules, Survivors
from pytest_readonly_vm.disks.filters import Filters
from pytest_readonly_vm.disks.log_filter import LogFilter
from pytest_readonly_vm.disks.write_log import SECTOR, LogDamaged, WriteLog
from pytest_readonly_vm.errors import QmpError, RecordingError, VmError
from pytest_readonly_vm.host.os_errors import explain
from pytest_readonly_vm.image.image_file import ImageFile
from pytest_readonly_vm.machine.cut import Cut
from pytest_readonly_vm.machine.cut_search import CutSearch
from pytest_readonly_vm.machine.host_disk import HostDisks
from pytest_readonly_vm.machine.mark import Mark, guest_marks
from pytest_readonly_vm.machine.undoable import Undoable
from pytest_readonly_vm.printable import line
from pytest_readonly_vm.qemu.disk_spec import copies
from pytest_readonly_vm.start.freeze import put_overlay_on_top
from pytest_readonly_vm.start.migration import go_on

if TYPE_CHECKING:
    from pytest_readonly_vm.machine.disk import MachineDisk


class Recording(CutSearch, Undoable):
    """What a guest writes to a disk, flushes and discards, from the call that makes it on until its context ends,
    `end` is called, or the test is over. Then it can be told what the disk may have held at each moment between.

    Attributes: `disk`; `size`, bytes of the log; `ended`, why it has ended before it was told to, or nothing.
    """

    def __init__(
        self,
        disk: "MachineDisk",
        filters: Filters,
        *,
        limit: int,
        marks_at: int | None,
        entry: HistoryEntry,
        on_end: Callable[[], object],
    ) -> None:
        """It is on from `begin` on.

        :param limit: bytes of the log at which it ends.
        :param marks_at: the byte of the disk at which the guest writes marks.
        :param on_end: called when it has ended.
        """
        super().__init__(entry)
        self.disk = disk
        self.size = 0
        self.ended = ""
        self._limit, self._marks_at = limit, marks_at
        self._on_end = on_end
        self._instance = disk.vm.instance
        self._is_fatal = False
        """Whether what was written since its end is not in it though the test may mean it is."""
        self._marks: list[Mark] = []
        self._placed: list[tuple[str, int, float]] = []
        """Marks of the host's, with the size of the log then."""
        self._kept = contextlib.ExitStack()
        self._release = weakref.finalize(self, self._kept.close)
        self._filter = LogFilter(self._instance.qmp, filters)
        self._log: WriteLog | None = None

    # While it is on.

    def begin(self) -> None:
        """Have it be on.

        :raises RecordingError: the disk cannot be recorded.
        """
        vm = self.disk.vm
        if not self.disk.attached.spec.is_here:
            raise RecordingError(
                f"{self._label}: it cannot be recorded: its image is on the network, and the states after a cut are "
                "made of files of this computer; have the image downloaded, by https://"
            )
        self.folder = vm.keeper.maker.resources.new_folder(vm.config)
        self._kept.callback(shutil.rmtree, self.folder, ignore_errors=True)
        try:
            with tempfile.TemporaryFile(dir=self.folder) as file:
                self._descriptor = os.dup(file.fileno())
            self._kept.callback(os.close, self._descriptor)
            self.disk.loop.run(self._begin())
        except (OSError, QmpError) as error:
            self.abandon()
            self._release()
            why = explain(error) or error if isinstance(error, OSError) else error
            raise RecordingError(f"{self._label}: it cannot be recorded: {why}") from None
        except BaseException:
            self.abandon()
            self._release()
            raise

    @property
    def _label(self) -> str:
        return f"{self.disk.vm.name}: {self.disk.name}"

    async def _begin(self) -> None:
        instance, attached = self._instance, self.disk.attached
        qmp = instance.qmp
        is_running = bool((await qmp.command("query-status"))["running"])
        # What was written before is below what is logged from now on, and none of it is in both: so it stands still.
        with qmp.liveness.expecting_stop():
            await qmp.command("stop")
            try:
                await put_overlay_on_top(instance, attached)
                self._disk_size, *_ = await attached.virtual_sizes(qmp)
                await self._filter.insert(self._descriptor, limit=self._limit, on_full=self._overflow)
            finally:
                if is_running:
                    await go_on(qmp)
        below = copies({"": attached.frozen_overlays})[""]
        here = tuple(file for file in attached.files if isinstance(file, ImageFile))  # all of them
        self._below = CutDisk(below, here, self._disk_size, attached.spec.size)
        self._kept.callback(self._below.close)

    def _overflow(self) -> None:
        self._end_early(f"its log has reached {self._limit >> 20} MiB; say a larger limit=, or record for less time")

    def _end_early(self, why: str) -> None:
        if not self.ended:
            self.ended, self._is_fatal = why, True

    def mark(self, text: str) -> None:
        """Say something of this moment, such as what the guest has acknowledged by now: see `Cut.acknowledged`.

        What the guest knows to be done by now is before the mark, as a request is in the log when the guest hears that
        it is done.

        :raises RecordingError: the recording has ended.
        """
        if not self._is_on or self.ended:
            raise RecordingError(f"{self._label}: mark({text!r}): the recording has ended{self._why}")
        self._placed.append((line(text), os.fstat(self._descriptor).st_size, time.time()))

    @property
    def _why(self) -> str:
        return f", as {self.ended}" if self.ended else ""

    def look(self) -> None:
        if self.is_on:
            self.size = os.fstat(self._descriptor).st_size

    # Its end.

    def _off(self) -> None:
        self._on_end()
        vm, is_whole = self.disk.vm, True
        self.disk.loop.loop.call_soon_threadsafe(self._filter.forget)
        if vm.instance is not self._instance:
            self._end_early("the machine went back to another time, or has been made anew")
            is_whole = False
        elif vm.closed:
            self._end_early("the machine was closed meanwhile")
            is_whole = False
        elif not self._instance.is_alive:
            self.ended = self.ended or "the machine has ended"
            is_whole = False
        else:
            try:
                self.disk.loop.run(self._filter.remove())
            except VmError as error:
                if self._instance.process.returncode is None:
                    raise
                self.ended, is_whole = f"the machine has ended: {error}", False
        if self._filter.was_in:
            self.read(is_whole=is_whole)

    def has_ended_by(self, why: str) -> None:
        """The machine's power was cut; the log is whole, as QEMU had nothing under way any more."""
        if self._is_on:
            self.ended = why
            self._undo_at_once()

    def _undo_at_once(self) -> None:
        self._is_on = False
        self._on_end()
        self._entry.seconds = time.time() - self._entry.time
        self._entry.is_pending = False
        self.read(is_whole=True)
        self._entry.what = str(self)

    def read(self, *, is_whole: bool) -> None:
        """Read the log, once nobody writes it any more.

        :param is_whole: whether QEMU has ended it in good order.
        """
        self.size = os.fstat(self._descriptor).st_size
        try:
            log = WriteLog(self._descriptor, self._disk_size // SECTOR)
            if is_whole and not log.is_whole:
                raise LogDamaged("an entry is missing")
        except (OSError, LogDamaged) as error:
            self._end_early(f"its log is damaged: {error}{self._room()}")
            return
        if self._filter.length:
            log.cut_short(log.moment(self._filter.length))
        if not is_whole:
            # The last entries may be torn, which does not show; a flush was done when its own was there.
            log.cut_short(log.flushes[-1] + 1 if log.flushes else 0)
        self._log = log
        self._marks, numbers = guest_marks(log, self._descriptor, self._marks_at)
        placed = (Mark(text, log.moment(size), when) for text, size, when in self._placed)
        # Of a log that was cut short, what is said of later moments says nothing of its end.
        is_short = not is_whole
        self._marks += [mark for mark in placed if mark.moment <= len(log) - is_short]
        self._marks.sort(key=lambda mark: mark.moment)
        self._rules = CutRules(log, numbers)
        self._layers = CutLayers(log, self._disk_size, self.folder)
        self._kept.callback(self._layers.close)
        qemu_img = self._instance.spec.hypervisor.qemu_img
        self._host_disks = HostDisks(self._below, log, self.folder, qemu_img)

    def _room(self) -> str:
        full = [
            event
            for event in self._instance.qmp.events
            if event.name == "BLOCK_IO_ERROR" and event.data.get("nospace") and event.time >= self._entry.time
        ]
        return f"; there was no room for it below {self.folder.parent}" if full else ""

    def _check(self) -> None:
        if self._is_fatal:
            raise RecordingError(f"{self._label}: the recording has ended before it was told to: {self.ended}")

    def __str__(self) -> str:
        if self._log is None:
            return self._what
        return f"{self._what}: {self.writes} writes, {self.flushes} flushes{self._why}"

    # Afterwards.

    @property
    def log(self) -> WriteLog:
        """What was recorded.

        :raises RecordingError: it is still being recorded, or damaged.
        """
        if self._log is None:
            why = "it is still being recorded: leave its context, or call end()" if self._is_on else self.ended
            raise RecordingError(f"{self._label}: there are no cuts of it: {why}")
        return self._log

    @property
    def rules(self) -> CutRules:
        """By which cuts are made of it; raises as `log`."""
        _ = self.log
        return self._rules

    @property
    def writes(self) -> int:
        """How many writes were recorded, but for marks."""
        return len(self.rules.writes)

    @property
    def flushes(self) -> int:
        """How many flushes were recorded."""
        return len(self.rules.flushes)

    @property
    def marks(self) -> tuple[Mark, ...]:
        """All marks, in the order of the log."""
        _ = self.log
        return tuple(self._marks)

    def marks_by(self, moment: int) -> Sequence[Mark]:
        """Those that had been made at a moment."""
        return self.marks[: bisect_right(self._marks, moment, key=lambda mark: mark.moment)]

    def cut(self, id: str) -> Cut:
        """The cut of that name, which `Cut.id` has been: ``flush:17``, ``write:230``, ``random:7:12``.

        :raises RecordingError: the recording is still on, or has no such cut.
        """
        rules = self.rules
        try:
            return Cut(self, id, rules.state(id))
        except ValueError as error:
            raise RecordingError(f"{self._label}: there is no cut {line(repr(id))}: {error}") from None

    def cuts(self, at: str = "flush", *, limit: int | None = None, seed: int = 0, torn: bool = False) -> Iterator[Cut]:
        """What the disk may have held at moments of the recording, one after another.

        :param at: ``flush``: for each flush what it has made sure of, and nothing of what came later, as if power had
            gone just before the next one was done; ``write``: for each write all up to it; ``random``: at random
            moments all that was flushed, and of later writes a random part.
        :param limit: at most so many moments, from the first to the last at equal distances; of random ones 100 if
            nothing is said.
        :param seed: of what is random; the same gives the same.
        :param torn: whether writes of several sectors may be torn: of the last one that was not flushed only the first
            sectors, as one more cut of each moment; with ``random`` of any.
        :raises RecordingError: the recording is still on, or something else is asked for.
        """
        rules = self.rules
        try:
            names = rules.names(at, limit=limit, seed=seed, torn=torn)
        except ValueError as error:
            raise RecordingError(f"{self._label}: cuts({error})") from None
        return (Cut(self, name, rules.state(name)) for name in names)

    def disk_of(self, state: Survivors) -> CutDisk:
        try:
            layers: tuple[ImageFile, ...] = self._layers.build(state)
        except (OSError, LogDamaged) as error:
            why = (explain(error) if isinstance(error, OSError) else None) or error
            raise RecordingError(f"{self._label}: a cut cannot be built: {why}") from None
        below = copies({"": self._below.layers})[""]
        return replace(self._below, layers=(*layers, *below))

    @property
    def host_disks(self) -> HostDisks:
        return self._host_disks
