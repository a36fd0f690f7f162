"""Owns a cut's disk in a machine: plugged into one that runs, found there, its file system mounted."""

import shlex
import tempfile
from dataclasses import dataclass

from pytest_readonly_vm.disks.cut_disk import CutDisk
from pytest_readonly_vm.disks.cut_layer import CutLayer
from pytest_readonly_vm.errors import MountFailed, VmError
from pytest_readonly_vm.guest.guest import Guest
from pytest_readonly_vm.qemu.instance import Instance
from pytest_readonly_vm.qemu.plugged_disk import plug_disk

_SERIAL = "cut"
_PATIENCE = 60.0
"""Seconds, on a computer that runs guests by itself, until a guest has seen a disk that was plugged in."""

# The disk by its serial number, as its kernel tells it. The largest partition that has a file system is the one where
# the root of a system is. A guest that is deaf to plugging is told to look.
_MOUNT = """\
serial={serial} part={part} kind={kind} options={options}
tries={tries} disk=
while [ -z "$disk" ]; do
    for one in /sys/block/*; do
        for file in serial device/serial device/vpd_pg80; do
            [ -r "$one/$file" ] || continue
            case $(cat "$one/$file") in *"$serial") disk=${{one##*/}} ;; esac
        done
    done 2>/dev/null
    [ -z "$disk" ] || break
    tries=$((tries - 1))
    [ "$tries" -gt 0 ] || {{ echo "the guest has not seen the disk" >&2; exit 3; }}
    [ $((tries % 50)) -ne 0 ] || echo 1 >/sys/bus/pci/rescan
    sleep 0.02
done 2>/dev/null
if [ -n "$part" ] && [ "$part" != 0 ]; then
    found=
    for one in /sys/block/"$disk"/*/partition; do
        [ "$(cat "$one" 2>/dev/null)" != "$part" ] || {{ found=${{one%/partition}}; found=${{found##*/}}; }}
    done
    [ -n "$found" ] || {{ echo "there is no partition $part on it" >&2; exit 4; }}
elif [ -n "$part" ]; then
    found=$disk
else
    found=$(for one in /sys/block/"$disk"/*/partition; do
        [ ! -r "$one" ] || echo "$(cat "${{one%/partition}}/size") $(basename "${{one%/partition}}")"
    done | sort -rn | while read -r _ one; do echo "$one"; done)
    found=${{found:-$disk}}
fi
place=$(mktemp -d) || exit
for one in $found; do
    if mount ${{kind:+-t "$kind"}} ${{options:+-o "$options"}} "/dev/$one" "$place"; then
        echo "/dev/$one $place"
        exit 0
    fi
done
exit 4
"""


@dataclass(frozen=True, slots=True)
class Found:
    """Where a disk is in a guest."""

    device: str
    path: str


async def plug_cut(instance: Instance, disk: CutDisk) -> None:
    """Give a machine that runs a disk more, to which it may write without anything of that being kept; on the loop.

    :raises VmError: it takes none.
    :raises OSError: there is no room for what it writes.
    """
    qmp = instance.qmp
    known: dict[int, int] = {}
    for file in disk.all:
        known[file.descriptor] = await qmp.hand_over(file.descriptor)
    with tempfile.TemporaryFile(dir=instance.folder) as top:
        CutLayer(top.fileno(), disk.size).finish()
        written = await qmp.hand_over(top.fileno())
    node = {
        "driver": "qcow2",
        "node-name": _SERIAL,
        "file": {"driver": "file", "filename": f"/dev/fdset/{written}", "cache": {"no-flush": True}},
        "backing": disk.node(lambda file: known[file.descriptor]),
    }
    await qmp.command("blockdev-add", node)
    spec = instance.spec
    await plug_disk(qmp, _SERIAL, _SERIAL, spec.config, spec.hypervisor.qemu.arch, name=instance.name)


def mount_cut(guest: Guest, name: str, *, partition: int | None, type: str | None, options: str) -> Found:
    """Have the guest mount the file system of the disk that was plugged in, to be written to: it recovers it.

    :param name: of the machine and the cut, for messages.
    :param partition: by its number, 0 for the whole disk; by default the largest that can be mounted.
    :raises MountFailed: it cannot be mounted, which may be what the cut has done to it.
    :raises VmError: the guest does not see the disk.
    """
    slowness = guest.instance.spec.slowness
    script = _MOUNT.format(
        serial=_SERIAL,
        part="" if partition is None else str(int(partition)),
        kind=shlex.quote(type or ""),
        options=shlex.quote(options),
        tries=round(_PATIENCE * slowness / 0.02),
    )
    result = guest.ask(script, timeout=4 * _PATIENCE * slowness)
    if result.exit_code == 0:
        device, _, path = result.stdout.strip().rpartition("\n")[2].partition(" ")
        return Found(device, path)
    if result.exit_code == 3:
        raise VmError(f"{name}: the guest has not seen the disk; its kernel may have no driver for virtio disks")
    failed = MountFailed(f"{name}: no file system of it can be mounted: {last_line(result.stderr)}")
    failed.add_note(f"stderr:\n{result.stderr}")
    raise failed


def last_line(text: str) -> str:
    """The last line that is not blank, if there is one."""
    return next((one.strip() for one in reversed(text.splitlines()) if one.strip()), "")
