"""Owns what a frozen guest's files are, to tell later what a machine that goes on from it has changed.

What a guest had in memory when it was frozen is on no disk yet. So a copy of it is made once, told to write that, and
looked at: the same that its other copies will have written.
"""

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field

from pytest_readonly_vm.errors import VmError
from pytest_readonly_vm.guest.guest import Guest
from pytest_readonly_vm.guest.listing import Listing, listing
from pytest_readonly_vm.guest.mounts import EXT, Mount, identities, synced_mounts
from pytest_readonly_vm.image.ext4 import Ext4, making_sense
from pytest_readonly_vm.image.ext4_tree import FileTree
from pytest_readonly_vm.image.qcow2 import Unreadable
from pytest_readonly_vm.machine.disk_view import DiskView, open_written
from pytest_readonly_vm.start.migration import go_on
from pytest_readonly_vm.start.template import Template

Copy = Callable[[], contextlib.AbstractContextManager[Guest]]
"""One more copy of the frozen guest, which ends with its context."""


@dataclass(slots=True, eq=False)
class Baseline:
    """The file systems that were mounted, each by its place, as they were."""

    copy: Copy
    mounts: list[Mount]
    """All of them, also those whose files are not compared."""
    trees: dict[bytes, tuple[str, FileTree]] = field(default_factory=dict)
    """Of those that are read from outside the disk's name, and all names."""
    listings: dict[bytes, Listing] = field(default_factory=dict)
    """Of the others what the guest itself told."""
    identities: dict[str, bytes] = field(default_factory=dict)
    """The UUIDs of the file systems by the numbers of their devices."""
    disks: dict[str, DiskView] = field(default_factory=dict)
    """Those that can be read from outside, by their names."""
    written: dict[str, int] = field(default_factory=dict)
    """Descriptors of the files that the copy of the guest wrote to."""
    is_closed: bool = False

    @property
    def looked_at(self) -> list[Mount]:
        """Those of the file systems whose files are compared."""
        return [mount for mount in self.mounts if mount.is_looked_at]

    def look(self, guest: Guest, template: Template) -> None:
        """Read what can be read from outside, of a copy that does not run from then on: what it writes would count."""
        instance = guest.instance
        mounts = [mount for mount in self.looked_at if mount.kind in EXT and mount.root == b"/"]
        if not instance.disks or not mounts:
            return
        if not self.identities:
            self.identities = identities(guest, [mount.device for mount in mounts])
        with instance.qmp.liveness.expecting_stop():
            guest.loop.run(instance.qmp.command("stop"))
        found: dict[bytes, list[tuple[str, Ext4]]] = {}
        for disk in instance.disks:
            if disk.name not in self.written:
                self.written[disk.name] = guest.loop.run(open_written(instance, disk))
            with contextlib.suppress(Unreadable):
                files = (*template.overlays.get(disk.name, ()), *disk.files)
                view = self.disks[disk.name] = DiskView.of(self.written[disk.name], files)
                for system in view.file_systems():
                    found.setdefault(system.uuid, []).append((disk.name, system))
        for mount in mounts:
            candidates = found.get(self.identities.get(mount.device, b""), [])
            if len(candidates) == 1 and mount.path not in self.listings:
                [(name, system)] = candidates
                with contextlib.suppress(Unreadable), making_sense():
                    self.trees[mount.path] = name, FileTree(system)

    def listing(self, place: bytes) -> Listing:
        """What the guest told of a file system; a copy of it is asked when it was not asked before."""
        if place not in self.listings:
            with self.copy() as guest:
                self.listings[place] = listing(guest, place)
        return self.listings[place]

    def close(self) -> None:
        self.is_closed = True
        self.trees.clear()
        while self.written:
            os.close(self.written.popitem()[1])

    def check_is_open(self) -> None:
        if self.is_closed:
            raise VmError("what was in it before is not known any more: the checkpoint or the machine has been closed")


def baseline(template: Template, copy: Copy) -> Baseline:
    """That of a frozen guest, found out when it is first asked for; it is closed with the template.

    :raises VmError: no copy can be made, or that does not answer.
    """
    known = template.known
    if not isinstance(known.files, Baseline):
        known.files = _found_out(template, copy)
    return known.files


def _found_out(template: Template, copy: Copy) -> Baseline:
    with copy() as guest, contextlib.ExitStack() as on_failure:
        known = Baseline(copy, synced_mounts(guest))
        on_failure.callback(known.close)
        known.look(guest, template)
        if others := [mount.path for mount in known.looked_at if mount.path not in known.trees]:
            guest.loop.run(go_on(guest.instance.qmp))
            known.listings = {path: listing(guest, path) for path in others}
            known.look(guest, template)
        on_failure.pop_all()
    return known
