"""Owns what a loss of power does: nothing that is asked of the disks is done any more; what they have then."""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from random import Random

from pytest_readonly_vm.disks.cut_rules import Survivors
from pytest_readonly_vm.disks.filters import device_path
from pytest_readonly_vm.disks.live_disk import LiveDisk
from pytest_readonly_vm.image.image_file import Fingerprint, ImageFile
from pytest_readonly_vm.machine.recording import Recording
from pytest_readonly_vm.qemu.disk_spec import Overlays, copies
from pytest_readonly_vm.qemu.instance import Instance
from pytest_readonly_vm.start.template import frozen_overlay, written_file

_NOBODY = "power-is-gone"
_LONG = 10**18
"""Nanoseconds: no request of the guest's is done any more."""


def survivors(recording: Recording, survives: str, seed: int, *, torn: bool) -> Survivors:
    """What is on a disk of which the power goes at the end of its log."""
    rules, end = recording.rules, len(recording.log)
    if survives == "all":
        return Survivors(end, end)
    if survives == "random":
        return rules.random_at(end, Random(f"power cut:{seed}"), torn=torn)
    return Survivors(end, rules.sure(end), dict.fromkeys(rules.unsure(end), 0))


async def part(instance: Instance, lives: Sequence[LiveDisk], recorded: set[str]) -> Overlays:
    """Have nothing that the guest asks of its disks be done any more, and all that it was told of be in files.

    Whatever it hears is true until then. What QEMU is doing at this moment it does to its end, so the logs are whole;
    were it stopped instead, it would flush, as no power cut does. On the loop.

    :param lives: the disks, those that are recorded first.
    :return: of the disks that are not recorded the files above those of the image.
    """
    qmp = instance.qmp
    found: dict[str, tuple[ImageFile, ...]] = {}
    with ExitStack() as opened:
        for number, live in enumerate(lives):
            disk = live.attached
            below = await disk.node(qmp)
            written = None
            if disk.name not in recorded:
                written = frozen_overlay(await written_file(instance, disk))
                opened.callback(os.close, written.descriptor)
            [size, *_] = await disk.virtual_sizes(qmp)
            node = f"{_NOBODY}{number}"
            nobody = {"driver": "null-co", "node-name": node, "size": size, "latency-ns": _LONG, "read-zeroes": True}
            await qmp.command("blockdev-add", nobody)
            await live.let_all_go()  # what is held back would be waited for
            path = await device_path(qmp, disk.device)
            await qmp.command("qom-set", {"path": path, "property": "drive", "value": node})
            if written is not None:
                # Where nobody has the node any more it is closed by now, and all is in the file as well.
                await qmp.attempt("human-monitor-command", {"command-line": f"qemu-io {below} flush"})
                stands = replace(written, fingerprint=Fingerprint.of(os.fstat(written.descriptor)))
                found[disk.name] = (stands, *disk.frozen_overlays)
        return copies(found)
