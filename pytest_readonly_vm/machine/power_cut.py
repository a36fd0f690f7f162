"""Owns the loss of a machine's power: its plug is pulled, and it boots anew with what its disks would have."""

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_readonly_vm.errors import RecordingError
from pytest_readonly_vm.image.image_file import ImageFile
from pytest_readonly_vm.machine.checkpoints import Rewindable
from pytest_readonly_vm.machine.places import cablings
from pytest_readonly_vm.qemu.disk_spec import close_all
from pytest_readonly_vm.qemu.instance import Instance
from pytest_readonly_vm.qemu.launch import InitialState

_SURVIVES = ("flushed", "random", "all")


class Powered(Rewindable):
    """A machine of which the plug can be pulled."""

    if TYPE_CHECKING:  # which the whole of it has

        @property
        def disks(self) -> Mapping[str, Any]: ...

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
        from pytest_readonly_vm.machine.power_loss import part, survivors

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
            overlays = dict(self.loop.run(part(old, lives, set(recordings))))
            old.process.kill()
            try:
                for name, recording in recordings.items():
                    recording.has_ended_by("the machine's power was cut")
                    state = survivors(recording, survives, seed, torn=torn)
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
