"""Owns what a test does to a disk: requests that fail, wait, come to no end; damage. All is undone with the test."""

from collections.abc import Iterable, Iterator

from pytest_readonly_vm.disks import faults
from pytest_readonly_vm.disks.damage import Damaged
from pytest_readonly_vm.disks.effects import Effect, Failing, Waiting
from pytest_readonly_vm.disks.faults import Guest, Kind
from pytest_readonly_vm.disks.filters import Filters
from pytest_readonly_vm.disks.live_disk import LiveDisk
from pytest_readonly_vm.disks.unplugged import Unplugged
from pytest_readonly_vm.errors import DiskError, VmError
from pytest_readonly_vm.machine.checkpoints import Rewindable
from pytest_readonly_vm.machine.disk import MachineDisk
from pytest_readonly_vm.machine.disk_fault import DiskFault
from pytest_readonly_vm.machine.undoable import Undoable

_LETTING_GO = 15.0
"""Seconds, on a computer that runs guests by itself, until a guest has let go of a disk."""


class FaultyDisk(MachineDisk):
    """A disk that can be a bad one. Each fault is a context, counted, and ended with the test at the latest."""

    def __init__(self, vm: Rewindable, name: str) -> None:
        super().__init__(vm, name)
        self._live: LiveDisk | None = None
        self._done: list[Undoable] = []
        self._out: DiskFault | None = None

    @property
    def live(self) -> LiveDisk:
        """What can be done to it in the QEMU that the machine has at this moment."""
        attached, instance = self.attached, self.vm.instance
        if self._live is None or self._live.attached is not attached:
            self._live = LiveDisk(instance.qmp, attached, instance.folder)
        return self._live

    @property
    def filters(self) -> Filters:
        """Those between the guest and its image, in the QEMU that the machine has at this moment."""
        return self.live.filters

    def error(
        self,
        kind: Kind,
        *,
        after: int = 0,
        sector: int | Iterable[int] | None = None,
        once: bool = False,
        guest: Guest = "report",
        may_be_unused: bool = False,
    ) -> DiskFault:
        """Have requests fail from now on, until the end of the context that this gives, or of the test.

        :param kind: which ones: ``read``, ``write`` or ``flush``, by which a guest has what it wrote be safe.
        :param after: so many requests of this kind pass before, at most 1000, which takes half a second to put in.
        :param sector: only those that have this sector of 512 bytes, or one of these, at most 4096.
        :param once: only the first one that it meets. Drivers may repeat it: Linux' do, but for virtio's.
        :param guest: whether it is told (``report``; it sees EIO), or the machine stands still (``pause``) until the
            fault ends, or `VirtualMachine.resume`, and does then again what has failed.
        :param may_be_unused: whether it is no error if it has met nothing at its end.
        :raises DiskError: a value that cannot be, or this disk has no such thing.
        :raises GuestDied: QEMU has ended.
        """
        errors = faults.error(kind, after=after, sector=sector, once=once, guest=guest)
        return self._fault(errors.words, Failing(self.live, errors), may_be_unused)

    def full(self, *, after: int = 0, guest: Guest = "pause", may_be_unused: bool = False) -> DiskFault:
        """Have there be no room for writes, until the end of the context that this gives, or of the test.

        The machine stands still at the first, as QEMU has it on a full host; with ``guest="report"`` the guest is told.
        The parameters are those of `error`, and so is what is raised.
        """
        errors = faults.full(after=after, guest=guest)
        return self._fault(errors.words, Failing(self.live, errors), may_be_unused)

    def read_only(self, *, may_be_unused: bool = False) -> DiskFault:
        """Have no write succeed any more, until the end of the context that this gives, or of the test.

        So is a flash disk at the end of its life. The guest sees EIO for each; that a disk says of itself that it is
        read-only is what it is asked for only when it is found.

        :raises GuestDied: QEMU has ended.
        """
        errors = faults.read_only()
        return self._fault(errors.words, Failing(self.live, errors), may_be_unused)

    def throttle(
        self,
        *,
        iops: int | None = None,
        bandwidth: int | str | None = None,
        latency: float | str | None = None,
        may_be_unused: bool = False,
    ) -> DiskFault:
        """Have the disk be slow, until the end of the context that this gives, or of the test; of several the slowest.

        Reads and writes wait; a flush does not, but for the writes before it.

        :param iops: so many reads and writes a second, at least 1.
        :param bandwidth: so many bytes a second, as ``1000000`` or ``"1M"``.
        :param latency: seconds for each, as ``0.01`` or ``"10ms"``, one after another as with a single head; from a
            microsecond to a second.
        :raises DiskError: a value that cannot be, or none.
        :raises GuestDied: QEMU has ended.
        """
        slow = faults.throttle(iops=iops, bandwidth=bandwidth, latency=latency)
        return self._fault(slow.words, Waiting(self.live, slow), may_be_unused)

    def hang(self, *, may_be_unused: bool = False) -> DiskFault:
        """Have no read and no write come to an end, until the end of the context that this gives, or of the test.

        What waits is done then. It is done as well when the machine is paused or a checkpoint is made, or when the
        guest loses patience and resets the disk; what it asks afterwards waits again. An nvme disk lets go of what is
        asked first after a minute, as QEMU stands still while such a guest gives up. `hits` is known at the end.

        :raises GuestDied: QEMU has ended.
        """
        return self._fault("hang()", Waiting(self.live), may_be_unused)

    def corrupt(self, offset: int, length: int, *, may_be_unused: bool = False) -> DiskFault:
        """Have each bit of some bytes be another, until the end of the context that this gives, or of the test.

        What the guest writes there meanwhile is whole, and stays. `hits` is how often it has read from the disk at all.

        :param offset: the first byte, on the disk as the guest has it.
        :param length: at most 1 MiB.
        :raises DiskError: the disk has no such bytes.
        :raises GuestDied: QEMU has ended.
        """
        live = self.live
        words = faults.damaged(offset, length, of=self.loop.run(live.size()))
        return self._fault(words, Damaged(live, offset, length), may_be_unused)

    def unplug(self) -> DiskFault:
        """Take it out of the machine while that runs, until the context's end, that of the test, or `plug`.

        What is on it stays. It is put back where it was; what the guest calls it then may be another name. A machine of
        which a disk is out has no checkpoint, fork or capsule.

        :raises DiskError: it is out already, the guest does not let go of it, or the machine lets go of none such: of
            ide and sata, and of virtio and nvme where there is PCI Express.
        :raises GuestDied: QEMU has ended.
        """
        instance = self.vm.instance
        effect = Unplugged(self.live, instance.process.argv, patience=_LETTING_GO * instance.spec.slowness)
        self._out = self._fault("unplug()", effect, True)
        self._wait_until_gone()
        return self._out

    def plug(self) -> None:
        """Put it back.

        :raises DiskError: it has not been taken out.
        """
        if self._out is None or not self._out.is_on:
            raise DiskError(f"{self.vm.name}: {self.name}: plug(): it has not been taken out")
        self._out.end()

    def _fault(self, words: str, effect: Effect, may_be_unused: bool) -> DiskFault:
        entry = self.vm.instance.qmp.history.note("fault", f"{self.name}: {words}")
        fault = DiskFault(self, effect, entry, may_be_unused=may_be_unused)
        fault.begin()
        self._done.append(fault)
        return fault

    # The test.

    @property
    def done(self) -> tuple[Undoable, ...]:
        """What the present test has done to it, whether it is on or not."""
        return tuple(self._done)

    def look(self) -> None:
        """See what the faults have come to so far, as a machine is about to be made anew, without them."""
        for fault in self._done:
            try:
                fault.look()
            except VmError:
                continue

    def told(self) -> list[str]:
        """What the present test has done to it, in words, with what it has come to so far."""
        self.look()
        return list(map(str, self._done))

    def end_test(self, *, failed: bool) -> Iterator[BaseException]:
        """A test is over: end what it has begun and left on; what went wrong with that, each as an error.

        :param failed: whether the test has failed, so that whether a fault was of use does not matter.
        """
        done, self._done = self._done, []
        for fault in reversed(done):
            error = None
            try:
                if failed:
                    error = fault.abandon()
                else:
                    fault.end()
            except BaseException as raised:
                error = raised
            if error is not None:
                yield error
