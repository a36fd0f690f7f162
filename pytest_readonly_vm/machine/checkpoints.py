"""Owns a machine's ways through time: back to how a test gets it, back to a checkpoint, and apart, in forks."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.errors import VmError
from pytest_readonly_vm.guest.files import Progress
from pytest_readonly_vm.guest.guest import Guest
from pytest_readonly_vm.machine.moments import Forks, OpenCheckpoints, Returning
from pytest_readonly_vm.machine.networked import Networked
from pytest_readonly_vm.machine.places import Places, Told, cablings, exchanging
from pytest_readonly_vm.machine.pristine import prove_pristine
from pytest_readonly_vm.qemu.instance import Instance
from pytest_readonly_vm.qemu.spec import MachineSpec
from pytest_readonly_vm.start.maker import Maker
from pytest_readonly_vm.start.template import Template

if TYPE_CHECKING:  # which costs who does not use it
    from pytest_readonly_vm.machine.changes import Changes


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint(Returning):
    """A state of one machine, to which `VirtualMachine.restore` goes back. A context that does so when it is left."""

    vm: "Rewindable"
    template: Template
    places: Places
    """Those that it had on private networks."""
    told: Told = field(default_factory=dict)
    """The names of others that its guest knew there."""
    taken: float = field(default_factory=time.time)
    """On the host's clock, since the epoch."""

    @property
    def of(self) -> "Rewindable":
        return self.vm

    def release(self) -> None:
        self.template.close()


@dataclass(frozen=True, slots=True)
class Keeper:
    """Who keeps the machines of a run, and gives a machine what can come of it."""

    maker: Maker
    anew: Callable[[MachineSpec], Instance]
    """Another machine like one, pristine and ready."""
    adopt: Callable[[Instance], Any]
    """Keeps one more machine, a `VirtualMachine`, which ends with the run at the latest."""
    record: Callable[[Instance], None]
    """Tells how a machine came to be that nobody has adopted."""


class Rewindable(Networked):
    """A machine that can be again what it was."""

    config: VmConfig
    closed: bool

    if TYPE_CHECKING:  # which the whole of it has

        def close(self) -> None: ...

    def __init__(self, instance: Instance, keeper: Keeper, *, progress: Progress, is_ready: bool) -> None:
        """:param is_ready: whether it is somebody's; else what makes it ready has it, its layers or a cluster's."""
        super().__init__(instance, loop=keeper.maker.resources.loop, progress=progress)
        self.keeper = keeper
        self._is_ready = is_ready
        self.checkpoints = OpenCheckpoints[Checkpoint]()
        self._forked = 0
        self._first: Checkpoint | None = None
        self._handed_over_as: Template | None = instance.origin
        self._formed_with = ""
        self.latest_changes: Changes | None = None
        self.on_reset: list[Callable[[], object]] = []
        """Called when the machine is again as a test gets it."""

    def begins_with(self, template: Template) -> None:
        """A test gets it as it was then, and `reset` goes back there; the template outlives the machine."""
        self._first = Checkpoint(self, template, self.places, self.told)
        self._handed_over_as = template

    def was_formed_with(self, others: str) -> None:
        """It has become what it is together with others, at a moment that is not kept: there is no `reset`."""
        self._formed_with = others

    def _follow(self, old: Instance, new: Instance, how: str, *, to: float = 0.0) -> None:
        new.qmp.history.follow(old.qmp.history)
        new.qmp.history.note("state", how, detail={"to": to})
        self._enter(new)

    def reset(self) -> None:
        """Be as a test gets the machine: pristine, booted, ready. What the guest has done since then is gone.

        So are the networks that it was plugged into since; it is on those again that it was started with. A clone is
        there at once, a cold start boots anew; see the setting ``start``. Checkpoints stay.

        :raises VmError: the new machine could not be started, and the old one lives; or it is one of a cluster of which
            the moment is not kept at which that was formed.
        """
        self._check_is_ready("reset")
        if self._formed_with:
            raise VmError(
                f"{self.name}: the moment at which {self._formed_with} was formed is not kept, and without it this "
                "machine would be another one; use a checkpoint"
            )
        old = self.instance
        if self._first is not None:
            self._go_back("reset", self._first)
        else:
            with exchanging([(self.places, self.first_places)]):
                new = self.keeper.anew(old.spec)
                self.keeper.record(new)
            self._follow(old, new, "reset")
            self._handed_over_as = new.origin
            self._end(old)
            self.settle_again()
        self.was_reset()

    def was_reset(self) -> None:
        """It is again as a test gets it: see that it is, and tell who wants to know."""
        self.prove_pristine()
        for call in self.on_reset:
            call()

    def _check_is_open(self, what: str) -> None:
        if self.closed:
            raise VmError(f"{self.name}: {what}() is for a machine that is there; this one has been closed")

    def _check_is_ready(self, what: str) -> None:
        self._check_is_open(what)
        if not self._is_ready:
            raise VmError(
                f"{self.name}: {what}() is for a machine that is ready; this one is being made so, by `ready`, a layer "
                "or a cluster's function, and is the very one that is used or frozen then"
            )

    def prove_pristine(self) -> None:
        """With the setting ``prove_pristine``: look for what another machine may have left, and leave a mark.

        :raises VmError: there is such a mark.
        """
        if self.config.prove_pristine:
            prove_pristine(self, self.name)

    def checkpoint(self) -> Checkpoint:
        """Remember the guest as it is at this moment, RAM and disk; it runs on. As a context, go back at its end.

        It takes memory on the host as large as what the guest has in use, until it or the machine is closed.

        :raises VmError: something of the machine cannot be saved: some devices, such as nvme, block it.
        """
        self._check_is_ready("checkpoint")
        with self._history.noting("state", "checkpoint"):
            [template] = self.keeper.maker.freeze_running([self.instance]).templates
        return self.checkpoints.add(Checkpoint(self, template, self.places, self.told))

    def restore(self, checkpoint: Checkpoint | None = None) -> None:
        """Go back to a checkpoint, the latest by default, as often as wanted. Network connections do not survive.

        :raises VmError: there is none, or it is closed, or another machine's.
        """
        self._check_is_ready("restore")
        self._go_back("restore", self.checkpoints.meant(checkpoint, of=self.name))

    def _go_back(self, how: str, checkpoint: Checkpoint) -> None:
        spec = replace(self.instance.spec, cards=cablings(checkpoint.places))
        with exchanging([(self.places, checkpoint.places)]):
            new = self.keeper.maker.clone(spec, checkpoint.template)
        self.follow(new, how, to=checkpoint.taken, places=checkpoint.places, told=checkpoint.told)

    def follow(self, new: Instance, how: str, *, to: float, places: Places, told: Told) -> None:
        """Be another instance from now on, which has gone on from a checkpoint, and end the one so far.

        :param to: when the checkpoint was taken, in seconds since the epoch.
        :param places: those on private networks, as they were then.
        :param told: the names that its guest knew on each.
        """
        old = self.instance
        new.spec = old.spec  # by which it would be made anew
        self._follow(old, new, how, to=to)
        self._end(old)
        self.go_back_to(places, told)

    def fork(self, count: int = 1) -> Forks[Self]:
        """Machines that go on from this one's present state, independent of it and of each other; it runs on.

        Their cards on private networks lead nowhere, as addresses would be there twice; see `PrivateNetwork.fork`.

        They end with the test, or with ``with vm.fork(3) as (a, b, c):``, or when each is closed.

        :raises VmError: as `checkpoint`.
        """
        self._check_is_open("fork")
        with self._history.noting("state", f"fork of {count}"):
            [template] = self.keeper.maker.freeze_running([self.instance]).templates
        forks: list[Self] = []
        try:
            for number in range(1, count + 1):
                spec = replace(self.instance.spec, name=f"{self.name} (fork {self._forked + number})", cards=())
                forks.append(self.keeper.adopt(self.keeper.maker.clone(spec, template)))
        except BaseException:
            Forks(forks).close()
            raise
        finally:
            template.close()
        self._forked += count
        return Forks(forks)

    def diff(self, since: Checkpoint | None = None, *, timeout: float = 60.0) -> "Changes":
        """The files that are not what they were when the present test got the machine, or at a checkpoint.

        Compared are content, mode, owner, number of links, target, type, and from outside extended attributes, on the
        root and on what is mounted from disks; when something was read or written does not count. ext4 is read from
        outside while the guest stands still, after it was told to write what it has in memory; of others the guest
        lists all files. What was there before, a copy of the guest as it was then shows, once for each moment. See
        `Changes`.

        :param timeout: seconds, times `slowness`, that the guest may take to write what it has in memory; after those
            it is read as after a loss of power.
        :raises VmError: there is no such moment: a machine that has booted for itself, or a fork, needs a checkpoint;
            or what has changed cannot be found out.
        """
        self._check_is_ready("diff")
        moment = self.checkpoints.meant(since, of=self.name).template if since is not None else self._handed_over_as
        if moment is None or moment.known.is_closed:
            raise VmError(
                f"{self.name}: what has changed since it was handed over cannot be told, as that moment is not kept of "
                "a machine that has booted for itself, is a fork, or one of a cluster; take a checkpoint, and ask for "
                "diff(since=checkpoint)"
            )
        from pytest_readonly_vm.machine.baseline import baseline
        from pytest_readonly_vm.machine.diff import changes

        with self._history.noting("state", "diff") as entry:
            found = changes(self, baseline(moment, lambda: self._copy_of(moment)), timeout=timeout)
            entry.outcome = f"{len(found)} changes" if found else "no changes"
        self.latest_changes = found
        return found

    @contextlib.contextmanager
    def _copy_of(self, moment: Template) -> Iterator[Guest]:
        """The inside of one more machine, as this one was at a moment."""
        spec = replace(self.instance.spec, name=f"{self.name} (as it was)", cards=())
        instance = self.keeper.maker.clone(spec, moment)
        try:
            yield Guest(instance, loop=self.loop, progress=self._progress)
        finally:
            self._end(instance)

    def _end(self, old: Instance) -> None:
        self.loop.run(old.end())
        old.remove_folder()
