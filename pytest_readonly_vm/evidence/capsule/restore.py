"""Owns the machine that a capsule holds: its files here, a QEMU that has its state, and how the guest goes on."""

import asyncio
import os
import re
import shutil
import struct
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from pytest_readonly_vm.channels.console import Transcript
from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.errors import CapsuleRefused, ChannelError, OutOfSpace
from pytest_readonly_vm.evidence.capsule.manifest import EMBEDDED, devices_of
from pytest_readonly_vm.evidence.capsule.opened import Capsule
from pytest_readonly_vm.evidence.capsule.processor import features
from pytest_readonly_vm.evidence.capsule.saved_disk import member
from pytest_readonly_vm.image.image_file import ImageFile
from pytest_readonly_vm.qemu.command_line import RamWire
from pytest_readonly_vm.qemu.instance import Instance
from pytest_readonly_vm.qemu.spec import MachineSpec
from pytest_readonly_vm.start.maker import Maker
from pytest_readonly_vm.start.template import Template, frozen_overlay, seal

_MOST_OF_DEVICES = 1 << 30  # bytes that a state may have beside the RAM: video memory and the like
_ANSWER_PATIENCE = 10.0
_KEY = "ssh-key"
_PUBLIC_KEY = re.compile(rb"ssh-[a-z0-9-]+ [A-Za-z0-9+/=]+ ?[A-Za-z0-9@._-]*\n?")

# https://www.qemu.org/docs/master/interop/qcow2.html: what a header may say of files beside this one is not obeyed for
# the backing file, which is stated to QEMU even if there is none, but would be for a data file.
_QCOW2 = struct.Struct(">4sI24xI36xQ")
_UNDERSTOOD = 0b11001  # dirty, compression type, extended L2 entries


def _unpacked(capsule: Capsule, config: VmConfig, folder: Path, opened: ExitStack) -> tuple[Template, dict[str, Path]]:
    """The frozen guest, and the files that settings name."""
    manifest, reader = capsule.manifest, capsule.reader
    sizes = dict(manifest.sizes)
    size = sizes.pop("state", 0)
    if size > config.memory + _MOST_OF_DEVICES:
        raise CapsuleRefused(f"{capsule.path} is damaged: its state is larger than the machine")
    if size > (available := _available_memory()):
        raise OutOfSpace(f"{capsule.path} needs {size >> 20} MiB of memory, and {available >> 20} MiB are available")
    free = shutil.disk_usage(folder).free
    if sum(sizes.values()) > free:
        raise OutOfSpace(
            f"{capsule.path} needs {sum(sizes.values()) >> 20} MiB, and {folder.parent.parent.parent} has "
            f"{free >> 20} MiB free"
        )
    state = os.memfd_create("guest-state", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    opened.callback(os.close, state)
    reader.unpack("state", state, size=size)
    seal(state)
    for name, size in sizes.items():
        descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            reader.unpack(name, descriptor, size=size)
        finally:
            os.close(descriptor)
    overlays = {
        disk.name: tuple(
            _disk(folder / member(disk.name, number), capsule, opened) for number in range(manifest.overlays(disk.name))
        )
        for disk in manifest.disks
    }
    text = capsule.console.decode(errors="replace").replace("\r\n", "\n")
    template = Template(
        ram=None,
        state=state,
        overlays=overlays,
        has_named_ram=manifest.has_named_ram,
        cards=manifest.cards,
        transcript=Transcript(capsule.console, text[max(len(text) - manifest.unread, 0) :]),
        conversation=manifest.conversation,
        ready_after=0.0,
        ssh_key=_key(folder / _KEY, capsule) if {_KEY, f"{_KEY}.pub"} <= sizes.keys() else None,
    )
    return template, {name: folder / name for name in EMBEDDED if name in sizes}


def _key(path: Path, capsule: Capsule) -> Path:
    """:raises CapsuleRefused: its public half is none, which others would take for words of their own."""
    if not _PUBLIC_KEY.fullmatch(path.with_name(f"{path.name}.pub").read_bytes()):
        raise CapsuleRefused(f"{capsule.path} is damaged: {path.name}.pub is no public key")
    return path


def _available_memory() -> int:
    """Bytes that this computer can give without swapping."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return int(found[1]) << 10 if found else sys.maxsize


def _disk(path: Path, capsule: Capsule, opened: ExitStack) -> ImageFile:
    """A file of the guest's disk, which loses its name.

    :raises CapsuleRefused: it is none that QEMU has written for us; such a one could lead it to other files.
    """
    try:
        overlay = frozen_overlay(path)
    except FileNotFoundError:
        raise CapsuleRefused(f"{capsule.path} is damaged: {path.name} is missing") from None
    opened.callback(os.close, overlay.descriptor)
    path.unlink()
    header = os.pread(overlay.descriptor, _QCOW2.size, 0)
    if len(header) == _QCOW2.size:
        magic, version, encryption, features = _QCOW2.unpack(header)
        if (magic, version, encryption) == (b"QFI\xfb", 3, 0) and not features & ~_UNDERSTOOD:
            return overlay
    raise CapsuleRefused(f"{capsule.path} is damaged: {path.name} is no disk that a capsule can have")


def restored(maker: Maker, spec: MachineSpec, capsule: Capsule, *, runs: bool) -> Instance:
    """The machine, going on where it was if it `runs`.

    :raises CapsuleRefused: this computer cannot resume it.
    :raises StartFailed: QEMU did not come up, or did not accept the state.
    """
    loop = maker.resources.loop

    async def look(instance: Instance) -> None:
        _require_same_devices(instance, capsule)
        await _require_same_processor(instance, capsule)

    with ExitStack() as opened:
        folder = maker.resources.new_folder(spec.config)
        template, files = _unpacked(capsule, spec.config, folder, opened)
        spec = replace(spec, config=spec.config.replace(**files))
        spec.config.check()
        ram = RamWire(None, writable=True) if template.has_named_ram else None
        what = f"the state in {capsule.path}"
        instance = maker.loaded(spec, template, ram=ram, named_overlay=False, what=what, look=look)
    instance.manner = "capsule"
    with maker.giving_up(instance):
        loop.run(_go_on(instance, template, runs=runs))
    instance.ready_after = time.monotonic() - instance.started
    return instance


def _require_same_devices(instance: Instance, capsule: Capsule) -> None:
    """QEMU itself minds only some of the differences, and others show in the guest."""
    ours, theirs = devices_of(instance.process.argv), capsule.manifest.devices
    if ours != theirs:
        differing = [one for one in (*theirs, *ours) if (one in theirs) != (one in ours)] or ["their order"]
        raise CapsuleRefused(
            f"{capsule.path} is of a machine that this version of pytest-readonly-vm would build otherwise "
            f"({', '.join(differing)}); it was saved by version {capsule.manifest.plugin}"
        )


async def _require_same_processor(instance: Instance, capsule: Capsule) -> None:
    if missing := sorted(set(capsule.manifest.cpu) - set(await features(instance.qmp))):
        raise CapsuleRefused(
            f"{capsule.path} is of a guest whose processor could do what none can here ({', '.join(missing[:10])}"
            f"{', …' if len(missing) > 10 else ''}); it was saved under {capsule.manifest.accelerator} of QEMU "
            f"{capsule.manifest.qemu}"
        )


async def _go_on(instance: Instance, template: Template, *, runs: bool) -> None:
    if runs:
        await instance.qmp.command("cont")
    else:
        instance.qmp.liveness.look()
    instance.qmp.forget_events()
    if runs and template.conversation is not None:
        try:
            async with asyncio.timeout(_ANSWER_PATIENCE):
                await instance.channels.resume(*template.conversation)
        except (TimeoutError, ChannelError, AttributeError, LookupError, TypeError, ValueError):
            instance.channels.lose()  # and whoever needs it finds one anew
