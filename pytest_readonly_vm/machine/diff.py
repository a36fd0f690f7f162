"""Owns the question what a machine has changed of its files since a frozen moment, and its two ways to an answer.

From outside: what lies in the parts of the disk that were written since, read while the guest stands still. From
inside, where the file system or the disk is not one that is read here: what the guest lists, and what a copy of the
frozen guest had listed.
"""

import os

from pytest_readonly_vm.errors import ChannelError, GuestDied, GuestPaused, VmError, WaitTimeout
from pytest_readonly_vm.guest.guest import Guest
from pytest_readonly_vm.guest.mounts import Mount, synced_mounts
from pytest_readonly_vm.image.qcow2 import Unreadable
from pytest_readonly_vm.machine.baseline import Baseline
from pytest_readonly_vm.machine.changes import Change, Changes
from pytest_readonly_vm.machine.diff_inside import changes_from_inside
from pytest_readonly_vm.machine.diff_outside import changes_from_outside

_FAILED = "writes to its disk have failed: what the guest has in memory may not be there"


def changes(guest: Guest, baseline: Baseline, *, timeout: float) -> Changes:
    """What the files of a machine are that they were not.

    :param timeout: seconds, as of `synced_mounts`.
    :raises VmError: that cannot be found out; the message says why.
    """
    baseline.check_is_open()
    mounts, unasked = _synced(guest, timeout)
    remark = unasked or (_FAILED if _has_failed_writes(guest) else "")
    found: list[Change] = []
    looked_at: dict[str, str] = {}
    hidden = [mount.path for mount in (baseline.mounts if mounts is None else mounts) if mount.path != b"/"]
    unread = ""
    if baseline.trees:
        try:
            for place, seen in changes_from_outside(guest, baseline):
                looked_at[os.fsdecode(place)] = "outside"
                found += [change for path, change in seen if not _is_hidden(path, place, hidden)]
        except Unreadable as error:
            found.clear()
            looked_at.clear()
            unread = str(error)
            remark = f"the disk could not be read from outside: {unread}"
    for place in (mount.path for mount in baseline.looked_at):
        if os.fsdecode(place) in looked_at:
            continue
        if mounts is None:
            why = f" ({unread})" if unread else ""
            raise VmError(
                f"{guest.name}: what has changed at {os.fsdecode(place)} only the guest can tell{why}; but {unasked}"
            )
        looked_at[os.fsdecode(place)] = "inside"
        differences = changes_from_inside(guest, baseline, place)
        found += [change for path, change in differences if not _is_hidden(path, place, hidden)]
    return Changes(found, looked_at=looked_at, remark=remark)


def _has_failed_writes(guest: Guest) -> bool:
    """Whether QEMU has told that it could not write something for the guest, which `sync` does not."""
    events = guest.instance.qmp.events
    return any(event.name == "BLOCK_IO_ERROR" and event.data.get("operation") == "write" for event in events)


def _synced(guest: Guest, timeout: float) -> tuple[list[Mount] | None, str]:
    """What is mounted, once all is written; None, and why, of a guest that cannot be asked."""
    try:
        return synced_mounts(guest, timeout=timeout), ""
    except (ChannelError, GuestDied, GuestPaused, WaitTimeout) as error:
        if guest.instance.process.returncode is not None:
            raise
        told = str(error).partition("\n")[0]
        return None, f"the guest could not be asked to write what it had in memory, as after a loss of power: {told}"


def _is_hidden(path: bytes, place: bytes, mounted: list[bytes]) -> bool:
    """Whether something else is mounted there, so that nobody in the guest sees it."""
    return any((path == other or path.startswith(other + b"/")) and len(other) > len(place) for other in mounted)
