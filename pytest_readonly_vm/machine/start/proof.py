"""Owns the proof that a machine is pristine: a mark in its RAM and one on its disk, that no other machine may have."""

import secrets

from pytest_readonly_vm.errors import VmError
from pytest_readonly_vm.machine.guest import Guest

# A file of a tmpfs is in RAM. Those on disks are synced, so that they are not in the page cache alone. A place that
# cannot be written is none that an earlier test could have left something in.
_MARK = """\
places="/dev/shm /run /tmp /var/tmp"
while read -r device place kind options rest; do
    case $device:,$options, in /dev/*:*,rw,*) places="$places $place" ;; esac
done </proc/mounts
for place in $places; do
    [ ! -e "$place/{name}" ] || {{ cat "$place/{name}"; exit 3; }}
done
for place in $places; do
    echo "{mark}" >"$place/{name}"
done 2>/dev/null
sync
"""
_NAME = ".readonly-vm-mark"


def prove_pristine(guest: Guest, name: str) -> None:
    """Look for the mark of another machine, then leave one.

    :raises VmError: there is one; the message says whose.
    :raises ChannelError: no channel answers, without which there is no proof.
    """
    mark = f"{secrets.token_hex(8)} {name}".translate({ord(sign): "?" for sign in '"\\`$'})
    result = guest.run(_MARK.format(name=_NAME, mark=mark), check=False)
    if result.exit_code == 3:
        raise VmError(f"{name}: the machine is not pristine: it has the mark of {result.stdout.strip()}")
    result.check(name)
