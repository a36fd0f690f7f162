"""Owns templates: a guest frozen at one moment, as memory and files from which any number of machines can go on.

The guest's RAM is a memfd that the kernel has sealed, the state of its devices another, its disk a file below the
files of which is the base. A template outlives the QEMU that it was made of. How QEMU does it:
https://www.qemu.org/docs/master/devel/migration/main.html (``x-ignore-shared``: shared RAM is left where it is).
"""

import asyncio
import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pytest_readonly_vm.channels.console import Transcript
from pytest_readonly_vm.errors import StartFailed, VmError
from pytest_readonly_vm.host.os_errors import explain, host_errors
from pytest_readonly_vm.image.image_file import Fingerprint, ImageFile
from pytest_readonly_vm.image.sparse import ALL_SEALS
from pytest_readonly_vm.qemu.card import Card
from pytest_readonly_vm.qemu.command_line import DISK
from pytest_readonly_vm.qemu.disk import create_overlay
from pytest_readonly_vm.qemu.instance import Instance
from pytest_readonly_vm.start.migration import Unfrozen, go_on, save_state
from pytest_readonly_vm.start.repair import prepare

Reads = Mapping[str, str]
"""Files and folders of the host that are in a frozen guest, by their paths as they were given, and digests of them."""

_SEAL_PATIENCE = 10.0
_SEAL_PAUSE = 0.01
_REST, _REST_PATIENCE = 0.05, 0.2
"""Of the time in which a guest has become ready: for how long it is to rest, and how long that is waited for."""
_LONGEST_REST, _SHORTEST_REST = 1.0, 0.1
_IDLE = 0.1
"""Of one processor, the part that a guest uses that only keeps its time."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Template:
    """A frozen guest."""

    ram: int | None
    """Descriptor of its RAM; None when that is in `state` as well."""
    state: int
    """Descriptor of what QEMU has written of its devices."""
    overlays: tuple[ImageFile, ...]
    """The files of its disk that are above those of the base, the topmost first."""
    has_named_ram: bool
    cards: tuple[Card, ...]
    """On private networks, each with its place."""
    transcript: Transcript
    conversation: tuple[str, Mapping[str, Any]] | None
    """The channel that was in use and where it stood."""
    ready_after: float
    """Seconds that the boot took."""
    boot_phases: dict[str, float] = field(default_factory=dict)
    ssh_key: Path | None = None
    reads: Reads = field(default_factory=dict)
    """What layers have read of the host's files: it is stale when they have other content."""

    @host_errors("a frozen guest cannot be used")
    def open_state(self) -> int:
        """A descriptor of the state with a position of its own, for one QEMU to read."""
        return os.open(f"/proc/self/fd/{self.state}", os.O_RDONLY | os.O_CLOEXEC)

    def difference(self) -> str | None:
        """What happened to the files of the disk since the freeze, or None. RAM and state are the kernel's to keep."""
        for file in self.overlays:
            if found := file.fingerprint.difference_of_content(Fingerprint.of(os.fstat(file.descriptor))):
                return f"the template's {file.path.name} {found}"
        return None

    def close(self) -> None:
        for descriptor in (self.ram, self.state, *(file.descriptor for file in self.overlays)):
            if descriptor is not None:
                os.close(descriptor)


@host_errors("a guest's memory cannot be had")
def new_ram(size: int) -> int:
    """Memory of so many bytes that can be sealed, as a descriptor."""
    descriptor = os.memfd_create("guest-ram", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    return descriptor


def seal(memory: int) -> None:
    """Have the kernel refuse every further change, for all time. Blocks while something has pages of it in hand.

    :raises OSError: something still had after ten seconds: a device's transfer, or whoever has it mapped.
    """
    deadline = time.monotonic() + _SEAL_PATIENCE
    while True:
        try:
            fcntl.fcntl(memory, fcntl.F_ADD_SEALS, ALL_SEALS)
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
        time.sleep(_SEAL_PAUSE)  # the kernel itself waits for a moment, and tells nobody when it would do


def frozen_overlay(path: Path) -> ImageFile:
    """A qcow2 file that nobody writes any more, open read-only; it may lose its name from now on."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    return ImageFile(path, "qcow2", descriptor, Fingerprint.of(os.fstat(descriptor)))


@host_errors("a frozen guest cannot be used")
def copies(overlays: tuple[ImageFile, ...]) -> tuple[ImageFile, ...]:
    """The same files, by descriptors that live and are closed on their own."""
    return tuple(replace(file, descriptor=os.dup(file.descriptor)) for file in overlays)


def close_all(overlays: tuple[ImageFile, ...]) -> None:
    for file in overlays:
        os.close(file.descriptor)


async def freeze(instance: Instance, *, ram: int | None) -> Template:
    """Make a template of a machine that writes to a named overlay, and end the machine. On the loop.

    :param ram: the memory that QEMU shares as its RAM; None if it has its own.
    :raises Unfrozen: it cannot be frozen. It runs on, but for its channel, which may have to be opened anew.
    :raises StartFailed: it could not be made sure that nobody changes what was frozen. It has ended.
    """
    conversation = await _parted(instance)
    await instance.place_cards()
    await _rested(instance)
    with instance.qmp.liveness.expecting_stop():
        await instance.qmp.command("stop")
        try:
            state = await save_state(instance.qmp, without_shared_ram=ram is not None)
        except Unfrozen:
            await go_on(instance.qmp)
            raise
    overlays = copies(instance.frozen_overlays)
    try:
        await instance.end()
        if instance.overlay is not None:
            overlays = (frozen_overlay(instance.overlay), *overlays)
        for memory in (state, ram):
            if memory is not None:
                await asyncio.to_thread(seal, memory)
    except BaseException as error:
        os.close(state)
        close_all(overlays)
        if isinstance(error, OSError):
            why = explain(error) or str(error)
            raise StartFailed(f"{instance.name}: the frozen guest cannot be kept as it is: {why}") from None
        raise
    template = _template(instance, conversation, ram, state, overlays)
    instance.remove_folder()
    return template


async def _rested(instance: Instance) -> None:
    """Wait until the guest has come to rest, but not for long: what it is in the middle of would go on in each copy.

    Nothing tells that. It shows in how much its QEMU computes, or waits for a processor of the host's.
    """
    rest = max(_SHORTEST_REST, min(instance.ready_after * _REST, _LONGEST_REST))
    clock = asyncio.get_running_loop().time
    before, deadline = instance.process.busy(), clock() + max(rest, instance.ready_after * _REST_PATIENCE)
    while clock() < deadline:
        await asyncio.sleep(rest)
        now = instance.process.busy()
        if now - before <= rest * _IDLE:
            return
        before = now


async def freeze_running(instance: Instance) -> Template:
    """Make a template of a machine that runs on afterwards, with a further overlay above its disk. On the loop.

    :raises Unfrozen: it cannot be frozen. It runs on.
    """
    conversation = await _parted(instance)
    await instance.place_cards()
    is_running = await _is_running(instance)
    with instance.qmp.liveness.expecting_stop():
        await instance.qmp.command("stop")
        try:
            if instance.spec.chain:
                await _put_overlay_on_top(instance)
            state = await save_state(instance.qmp, without_shared_ram=False)
            seal(state)
        finally:
            if is_running:
                await go_on(instance.qmp)
    return _template(instance, conversation, None, state, copies(instance.frozen_overlays))


async def _is_running(instance: Instance) -> bool:
    return bool((await instance.qmp.command("query-status"))["running"])


async def _parted(instance: Instance) -> tuple[str, Mapping[str, Any]] | None:
    if await _is_running(instance):
        await prepare(instance)
    if instance.ssh is not None:
        await instance.ssh.part()
        instance.ssh = None
    return await instance.channels.part()


def _template(
    instance: Instance,
    conversation: tuple[str, Mapping[str, Any]] | None,
    ram: int | None,
    state: int,
    overlays: tuple[ImageFile, ...],
) -> Template:
    return Template(
        ram=ram,
        state=state,
        overlays=overlays,
        has_named_ram=instance.has_named_ram,
        cards=tuple(instance.cards),
        transcript=instance.console.transcript(),
        conversation=conversation,
        ready_after=instance.ready_after,
        boot_phases=instance.boot_phases,
        ssh_key=instance.ssh_key,
    )


async def _put_overlay_on_top(instance: Instance) -> None:
    """From now on the guest writes to a new file; what it wrote to so far becomes one of its frozen overlays."""
    qmp = instance.qmp
    [disk] = [device for device in await qmp.command("query-block") if device["device"] == DISK]
    node = f"overlay{len(instance.frozen_overlays) + 1}"
    path = instance.folder / f"{node}.qcow2"
    size = int(disk["inserted"]["image"]["virtual-size"])
    qemu_img = instance.spec.hypervisor.qemu_img
    await asyncio.to_thread(create_overlay, path, size, qemu_img=qemu_img, name=instance.name)
    written = written_file(instance)
    file = {"driver": "file", "filename": str(path), "locking": "off"}
    await qmp.command("blockdev-add", {"driver": "qcow2", "node-name": node, "file": file, "backing": None})
    await qmp.command("blockdev-snapshot", {"node": disk["inserted"]["node-name"], "overlay": node})
    instance.frozen_overlays = (frozen_overlay(written), *instance.frozen_overlays)
    if instance.overlay is None:
        path.unlink()
    else:
        instance.overlay = path


def written_file(instance: Instance) -> Path:
    """The file that takes a guest's writes; one without a name is reached through the process that has it open."""
    if instance.overlay is not None:
        return instance.overlay
    known = {file.fingerprint.inode for file in instance.frozen_overlays}
    for link in Path(f"/proc/{instance.process.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found = link.stat()
            ours = link.readlink().is_relative_to(instance.folder) and found.st_ino not in known
            if ours and stat.S_ISREG(found.st_mode) and not found.st_nlink:
                return link
    raise VmError(f"{instance.name}: the file with the guest's writes cannot be found")
