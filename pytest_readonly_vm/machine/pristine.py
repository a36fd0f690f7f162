"""Owns the proof that a machine is pristine: a mark in its RAM and one on its disk, that no other machine may have."""

import secrets

from pytest_readonly_vm.errors import VmError
from pytest_readonly_vm.guest.commands import checked
from pytest_readonly_vm.guest.guest import Guest

# A file of a tmpfs is in RAM. Those on disks are synced, so that they are not in the page cache alone, and are looked
# for when the caches have been emptied: a copy of a frozen guest has those of that guest, in which there is no mark,
# whatever is on its disk. Linux keeps the latest blocks of a device until it is told to flush this one. A place that
# cannot be written is none that an earlier test could have left something in. What mounts have as \040 is a space. The
# pattern finds what is in a folder, also if what that leads to is damaged, as by two guests that write to one disk.
_MARK = """\
sync
set -- /dev/shm /run /tmp /var/tmp
while read -r device place kind options rest; do
    case $device:,$options, in
        /dev/*:*,rw,*)
            set -- "$@" "$(printf %b "$place")"
            blockdev --flushbufs "$device" 2>/dev/null
            ;;
    esac
done </proc/mounts
echo 3 >/proc/sys/vm/drop_caches || exit
for place; do
    for found in "$place"/.[r]eadonly-vm-mark; do
        case $found in */.readonly-vm-mark) cat "$found" || echo a machine that cannot be read; exit 3 ;; esac
    done 2>/dev/null
done
marked=false
for place; do
    ! echo "{mark}" >"$place/.readonly-vm-mark" || marked=true
done 2>/dev/null
sync
$marked || {{ echo "none of $* can be written" >&2; exit 4; }}
"""


def prove_pristine(guest: Guest, name: str) -> None:
    """Look for the mark of another machine, then leave one.

    :raises VmError: there is one, and the message says whose; or none can be left.
    :raises ChannelError: no channel answers, without which there is no proof.
    """
    mark = f"{secrets.token_hex(8)} {name}".translate({ord(sign): "?" for sign in '"\\`$'})
    result = guest.run(_MARK.format(mark=mark), check=False)
    if result.exit_code == 3:
        raise VmError(f"{name}: the machine is not pristine: it has the mark of {result.stdout.strip()}")
    if result.exit_code == 4:
        raise VmError(f"{name}: the machine cannot be proved pristine: {result.stderr.strip()}")
    checked(result, name)
