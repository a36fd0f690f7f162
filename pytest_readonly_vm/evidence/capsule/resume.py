"""Owns the way back into a capsule: whether this computer has what it needs, and the machine that goes on.

Nothing is done to the guest, as it is to be what it was: its clock too is that of the moment when it was saved, so that
no timer finds that days have passed.
"""

import os
import shlex
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from pytest_readonly_vm.config.disk import DISK, Disk
from pytest_readonly_vm.config.image_reference import ImageReference, is_url
from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.errors import AcceleratorUnavailable, CapsuleRefused, ImageError
from pytest_readonly_vm.evidence.capsule.opened import Capsule
from pytest_readonly_vm.evidence.capsule.restore import restored
from pytest_readonly_vm.evidence.capsule.saved_disk import BaseLayer, further_disk
from pytest_readonly_vm.image.base import BaseImage
from pytest_readonly_vm.machine.lab import Lab
from pytest_readonly_vm.machine.vm import VirtualMachine
from pytest_readonly_vm.printable import count
from pytest_readonly_vm.qemu.firmware import of_state
from pytest_readonly_vm.sources.store import is_of_a_store
from pytest_readonly_vm.sources.unpack import is_packed

_OPTIONS = {"CD": "--cdrom", "base image": "--image"}


def resume_capsule(
    lab: Lab,
    capsule: Capsule,
    *,
    image: Path | ImageReference | None = None,
    cdrom: Path | ImageReference | None = None,
    disks: Mapping[str, Path | ImageReference] = MappingProxyType({}),
    run: bool = False,
    allow_qemu_args: bool = False,
    network: bool = False,
    local: VmConfig | None = None,
) -> VirtualMachine:
    """Start a machine that goes on from the moment that the capsule holds. It ends with the lab at the latest.

    A guest that was paused, or had panicked, stays as it was.

    :param image: the base image, if it is not where it was; an image that has to be brought here first is held by the
        lab, as that of any machine.
    :param cdrom: the image of its CD, likewise.
    :param disks: those of its further disks by their names, likewise.
    :param run: let a guest that stood still go on.
    :param allow_qemu_args: start QEMU with what the capsule has of arguments of its own, which may do anything.
    :param network: let connections out of the guest, which a stranger may have prepared.
    :param local: settings of this computer, such as ``qemu``, ``seal`` and ``tmpdir``.
    :raises CapsuleRefused: this computer cannot resume it; the message is one sentence.
    :raises ImageError: the base image or that of the CD is not there, cannot be had, or is another.
    :raises StartFailed: QEMU did not come up, or did not accept the state.
    """
    manifest = capsule.manifest
    if manifest.extras and not allow_qemu_args:
        raise CapsuleRefused(
            f"{capsule.path} starts QEMU with arguments of its own: {shlex.join(manifest.extras)}; they may do "
            "anything, so look at them, and then allow them with --allow-qemu-args"
        )
    config = _config(capsule, image, cdrom, disks, local or VmConfig(), network=network)
    try:
        saved = manifest.firmware
        firmware = of_state(saved.kind, saved.sizes, needs_smm=saved.needs_smm) if saved else None
        spec = lab.spec(config, manifest.name, firmware=firmware)
    except AcceleratorUnavailable as error:
        what = f"{capsule.path} was saved under {manifest.accelerator}, whose state no other accelerator can load"
        raise CapsuleRefused(f"{what}: {error}") from None
    if spec.hypervisor.qemu.arch != manifest.arch:
        raise CapsuleRefused(
            f"{capsule.path} is of a {manifest.arch} guest, and {spec.hypervisor.qemu.path} runs others"
        )
    for disk, saved_disk in zip(spec.disks, manifest.disks, strict=True):
        if disk.base is not None:
            _require_same(disk.base, saved_disk.image, capsule, called=_called(saved_disk.name))
    if spec.cdrom is not None and capsule.manifest.cdrom is not None:
        _require_same(spec.cdrom, (capsule.manifest.cdrom,), capsule, called="CD")
    return lab.adopt(lambda maker: restored(maker, spec, capsule, runs=run or manifest.is_running))


def _config(
    capsule: Capsule,
    image: Path | ImageReference | None,
    cdrom: Path | ImageReference | None,
    disks: Mapping[str, Path | ImageReference],
    local: VmConfig,
    *,
    network: bool,
) -> VmConfig:
    manifest = capsule.manifest
    config = manifest.config(local, network=network)
    if config.qemu is None:
        config = config.replace(arch=manifest.arch)
    there_is = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if config.memory > there_is:
        raise CapsuleRefused(
            f"{capsule.path} is of a machine with {config.memory >> 20}M of memory, which is more than this computer "
            f"has ({there_is >> 20}M)"
        )
    if manifest.cdrom is not None:
        config = config.replace(cdrom=_place(cdrom, manifest.cdrom, capsule, called="CD"))
    elif cdrom is not None:
        raise CapsuleRefused(f"{capsule.path} is of a machine without a CD, so it needs none")
    config = config.replace(disks=_further_disks(disks, capsule))
    if not manifest.base:
        if image is not None:
            raise CapsuleRefused(f"{capsule.path} is of a machine without a disk, so it needs no image")
        return config
    top = manifest.base[0]
    return config.replace(image=_place(image, top, capsule, called="base image"), format=top.format)


def _called(disk: str) -> str:
    return "base image" if disk == DISK else f"image of the disk {disk}"


def _further_disks(given: Mapping[str, Path | ImageReference], capsule: Capsule) -> tuple[Disk, ...]:
    """:raises CapsuleRefused: an image is given for a disk that the machine does not have, or is blank."""
    with_image = [disk.name for disk in capsule.manifest.disks if disk.image and disk.name != DISK]
    if unknown := sorted(given.keys() - set(with_image)):
        known = f"has images in {', '.join(with_image)}" if with_image else "has no further disks with images"
        raise CapsuleRefused(f"{capsule.path} is of a machine that {known}, and not in {unknown[0]}")
    disks = []
    for disk in capsule.manifest.disks:
        if disk.name != DISK:
            place = None
            if disk.image:
                place = _place(given.get(disk.name), disk.image[0], capsule, called=_called(disk.name))
            disks.append(further_disk(disk, place))
    return tuple(disks)


def _place(
    given: Path | ImageReference | None, top: BaseLayer, capsule: Capsule, *, called: str
) -> Path | ImageReference:
    """Where an image is. See, before anything is read, whether it can be a capsule's, which may name anything as such.

    What is given and has to be brought here or unpacked is looked at when that is done.

    :raises ImageError: it cannot.
    """
    if isinstance(given, ImageReference):
        return given
    option = _OPTIONS.get(called, f"--disk={called.rpartition(' ')[2]}")
    if given is None and is_url(top.path):
        raise ImageError(
            f"the {called} of {capsule.path} was on the network, at {top.path}; nobody is asked whom a capsule "
            f"names, so name it with {option}=URL, or as a file (its SHA-256 is {top.sha256})"
        )
    place = (given or Path(top.path)).absolute()
    known = f"name it with {option}=PATH, or by its URL or its name in a list (its SHA-256 is {top.sha256})"
    if is_of_a_store(place):
        known = f"it was in a store of images, to which `readonly-vm image pull` brings it back; or {known}"
    try:
        found = place.stat()
    except OSError as error:
        raise ImageError(f"the {called} {place} of {capsule.path} is not there ({error.strerror}); {known}") from None
    if not stat.S_ISREG(found.st_mode):
        raise ImageError(f"{place}, the {called} that {capsule.path} names, is no file; {known}")
    if given is not None and is_packed(place):
        return place
    if found.st_size != top.size:
        raise ImageError(
            f"{place} is not the {called} of {capsule.path}: it has {found.st_size} bytes, and that had {top.size}; "
            f"{known}"
        )
    return place


def _require_same(base: BaseImage, known: Sequence[BaseLayer], capsule: Capsule, *, called: str) -> None:
    """:raises ImageError: an image is another than that of the capsule."""
    if len(base.chain) != len(known):
        raise ImageError(
            f"the {called} {base.path} consists of {count(len(base.chain), 'file')}, and that of {capsule.path} of "
            f"{len(known)}"
        )
    for file, then in zip(base.chain, known, strict=True):
        if file.format != then.format:
            raise ImageError(f"{file.path} has the format {file.format}, and {capsule.path} is for {then.format}")
        if (digest := file.sha256()) != then.sha256:
            raise ImageError(
                f"{file.path} is not the {called} of {capsule.path}: its SHA-256 is {digest}, and that of the "
                f"{called.removesuffix(' image')} was {then.sha256}"
            )
