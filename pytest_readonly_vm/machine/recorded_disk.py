"""Owns the recording of a machine's disk."""

from pytest_readonly_vm.disks.write_log import SECTOR
from pytest_readonly_vm.errors import RecordingError
from pytest_readonly_vm.machine.faulty_disk import FaultyDisk
from pytest_readonly_vm.machine.mark import MARKS
from pytest_readonly_vm.machine.recording import Recording

_LIMIT = 2 << 30


class RecordedDisk(FaultyDisk):
    """A disk of which it can be told what a power cut would leave."""

    _recording: Recording | None = None

    @property
    def recording(self) -> Recording | None:
        """The one that is on, if there is one."""
        return self._recording

    def record(self, *, limit: int = _LIMIT, marks_at: int | str | None = None) -> Recording:
        """Record from now on what the guest writes to it, flushes and discards; afterwards there are `Recording.cuts`.

        It ends with the context that this gives, with `Recording.end`, or with the test. What was written before
        counts as flushed.

        :param limit: bytes of the log at which the recording ends, with an error.
        :param marks_at: a byte of the disk, ``"end"`` for its last 4096, from where on the guest writes marks into
            4096 bytes that nobody else uses: each write there, with ``O_DIRECT``, is one line of text.
        :raises RecordingError: it is being recorded already, or a fault is on that was there first.
        """
        vm = self.vm
        label = f"{vm.name}: {self.name}"
        if self.recording is not None:
            raise RecordingError(f"{label}: it is being recorded already; end that recording first")
        if self.filters.all:
            raise RecordingError(
                f"{label}: a fault is on, below which nothing is recorded; begin the recording first, then the fault"
            )
        size, *_ = self.loop.run(self.attached.virtual_sizes(vm.instance.qmp))
        place = size // SECTOR * SECTOR - MARKS if marks_at == "end" else marks_at
        if place is not None and not (isinstance(place, int) and place % SECTOR == 0 and 0 <= place <= size - MARKS):
            raise RecordingError(f"{label}: record(marks_at={marks_at!r}): no place of 4096 bytes at a sector's border")
        if not isinstance(limit, int) or limit < 1 << 20:
            raise RecordingError(f"{label}: record(limit={limit!r}): less than 1 MiB")
        entry = vm.instance.qmp.history.note("recording", f"{self.name} recorded")
        recording = Recording(
            self, self.filters, limit=limit, marks_at=place, entry=entry, on_end=self._forget_recording
        )
        self._recording = recording
        recording.begin()
        self._done.append(recording)
        return recording

    def _forget_recording(self) -> None:
        """It is for who has made it to keep from now on: it takes room."""
        self._recording = None
