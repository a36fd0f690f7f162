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
from pytest_readonly_vm.image.ext4 import making_sense
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
    trees: dict[bytes, FileTree] = field(default_factory=dict)
    """Of those that are read from outside, all names."""
    listings: dict[bytes, Listing] = field(default_factory=dict)
    """Of the others what the guest itself told."""
    identities: dict[str, bytes] = field(default_factory=dict)
    """The UUIDs of the file systems by the numbers of their devices."""
    disk: DiskView | None = None
    written: int | None = None
    is_closed: bool = False

    def look(self, guest: Guest, template: Template) -> None:
        """Read what can be read from outside, of a copy that does not run from then on: what it writes would count."""
        instance = guest.instance
        mounts = [mount for mount in self.mounts if mount.kind in EXT and mount.root == b"/"]
        if not instance.spec.chain or not mounts:
            return
        if not self.identities:
            self.identities = identities(guest, [mount.device for mount in mounts])
        with instance.qmp.liveness.expecting_stop():
            guest.loop.run(instance.qmp.command("stop"))
        if self.written is None:
            self.written = open_written(instance)
        with contextlib.suppress(Unreadable):
            self.disk = DiskView.of(self.written, (*template.overlays, *instance.spec.chain))
            systems = self.disk.file_systems()
            for mount in mounts:
                system = systems.get(self.identities.get(mount.device, b""))
                if system is not None and mount.path not in self.listings:
                    with contextlib.suppress(Unreadable), making_sense():
                        self.trees[mount.path] = FileTree(system)

    def close(self) -> None:
        self.is_closed = True
        self.trees.clear()
        if self.written is not None:
            os.close(self.written)
            self.written = None

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
        known = Baseline(copy, [mount for mount in synced_mounts(guest) if mount.is_looked_at])
        on_failure.callback(known.close)
        known.look(guest, template)
        if others := [mount.path for mount in known.mounts if mount.path not in known.trees]:
            guest.loop.run(go_on(guest.instance.qmp))
            known.listings = {path: listing(guest, path) for path in others}
            known.look(guest, template)
        on_failure.pop_all()
    return known
