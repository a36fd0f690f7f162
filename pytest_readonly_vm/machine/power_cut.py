"""Owns the loss of a machine's power: its plug is pulled, and it boots anew with what its disks would have."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any

from pytest_readonly_vm.disks.cut_rules import Survivors
from pytest_readonly_vm.disks.filters import device_path
from pytest_readonly_vm.disks.live_disk import LiveDisk
from pytest_readonly_vm.errors import RecordingError
from pytest_readonly_vm.image.image_file import Fingerprint, ImageFile
from pytest_readonly_vm.machine.checkpoints import Rewindable
from pytest_readonly_vm.machine.places import cablings
from pytest_readonly_vm.machine.recording import Recording
from pytest_readonly_vm.qemu.disk_spec import Overlays, close_all, copies
from pytest_readonly_vm.qemu.instance import Instance
from pytest_readonly_vm.qemu.launch import InitialState
from pytest_readonly_vm.start.template import frozen_overlay, written_file

_SURVIVES = ("flushed", "random", "all")
_NOBODY = "power-is-gone"
_LONG = 10**18
"""Nanoseconds: no request of the guest's is done any more."""


class Powered(Rewindable):
    """A machine of which the plug can be pulled."""

    if TYPE_CHECKING:  # which the whole of it has
        disks: Mapping[str, Any]

    def power_cut(self, *, survives: str = "flushed", seed: int = 0, torn: bool = False) -> None:
        """Pull the plug, now, and boot anew with what the disks would have; it is the same machine afterwards.

        At least one of its disks is being recorded: see `VirtualDisk.record`. That ends the recording, of which cuts
        can be made then. A disk that is not recorded has all that the guest has written to it.

        :param survives: ``flushed``: nothing of what was written after the last flush; ``random``: each of those writes
            or not, by `seed`; ``all``.
        :param torn: with ``random``, whether of a write of several sectors only the first may survive.
        :raises RecordingError: no disk is being recorded; or what was recorded is damaged, and the machine has ended.
        :raises BootTimeout: it did not become ready in time; raised also as other errors of a boot. There is no machine
            any more then.
        """
        self._check_is_ready("power_cut")
        if survives not in _SURVIVES:
            raise RecordingError(f"{self.name}: power_cut(survives={survives!r}): none of {', '.join(_SURVIVES)}")
        recordings = {name: found for name, disk in self.disks.items() if (found := disk.recording) is not None}
        if not recordings:
            raise RecordingError(
                f"{self.name}: power_cut(): what a disk would have after it is known only of one that is being "
                "recorded: with vm.disk.record(): …"
            )
        old = self.instance
        with self._history.noting("cut", f"power cut, {survives} writes survive"):
            lives = [disk.live for _, disk in sorted(self.disks.items(), key=lambda one: one[0] not in recordings)]
            overlays = dict(self.loop.run(_part(old, lives, set(recordings))))
            old.process.kill()
            try:
                for name, recording in recordings.items():
                    recording.has_ended_by("the machine's power was cut")
                    state = _state(recording, survives, seed, torn=torn)
                    overlays[name] = recording.disk_of(state).layers
            except BaseException:
                close_all(overlays)
                raise
            self._boot_anew(old, overlays)

    def _boot_anew(self, old: Instance, overlays: Mapping[str, tuple[ImageFile, ...]]) -> None:
        places = self.places
        spec = replace(old.spec, cards=cablings(places), slot=None, is_spare=False)
        named = spec.config.snapshot == "overlay"
        initial = InitialState(overlays=overlays, named_overlay=named, ssh_key=old.ssh_key)
        # Two of them at a time would need twice the room.
        with contextlib.suppress(TimeoutError):
            self.loop.run(old.end())
        new = self.keeper.maker.booted(spec, initial)
        new.spec = old.spec
        self._follow(old, new, "power cut")
        old.remove_folder()
        if places:
            self._take(places)


def _state(recording: Recording, survives: str, seed: int, *, torn: bool) -> Survivors:
    """What is on a disk of which the power goes at the end of its log."""
    rules, end = recording.rules, len(recording.log)
    if survives == "all":
        return Survivors(end, end)
    if survives == "random":
        return rules.random_at(end, Random(f"power cut:{seed}"), torn=torn)
    return Survivors(end, rules.sure(end), dict.fromkeys(rules.unsure(end), 0))


async def _part(instance: Instance, lives: Sequence[LiveDisk], recorded: set[str]) -> Overlays:
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
