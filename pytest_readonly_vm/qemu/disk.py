"""Owns the files of a machine's disk: one that takes the guest's writes, and what outlives the machine."""

import errno
import secrets
from collections.abc import Sequence
from pathlib import Path

from pytest_readonly_vm.channels.qmp import Qmp
from pytest_readonly_vm.config.qemu_args import escaped
from pytest_readonly_vm.errors import StartFailed, VmError
from pytest_readonly_vm.host.atomic_file import atomic_file
from pytest_readonly_vm.host.loop import LoopThread
from pytest_readonly_vm.host.qemu_binary import run_qemu_img
from pytest_readonly_vm.image import sparse
from pytest_readonly_vm.image.base import BaseImage
from pytest_readonly_vm.image.image_file import ImageFile
from pytest_readonly_vm.qemu.attached_disk import AttachedDisk
from pytest_readonly_vm.qemu.instance import Instance

_MERGE_PATIENCE = 600.0


def create_overlay(path: Path, above: BaseImage | int, *, qemu_img: Path, name: str) -> None:
    """Make one, empty; blocks for some milliseconds.

    :param above: the image whose name and size its header is to have, or a size in bytes, for one without a name below.
    :param name: the machine's, for the message.
    :raises StartFailed: it cannot be made.
    """
    if isinstance(above, BaseImage) and above.virtual_size is not None:
        above = above.virtual_size  # what is below is said to whoever opens it
    named, size = ((), (str(above),)) if isinstance(above, int) else (("-F", above.format, "-b", str(above.path)), ())
    create = ("create", "-q", "-f", "qcow2", *named, str(path), *size)
    try:
        run_qemu_img(qemu_img, create, failure=f"{name}: an overlay cannot be made")
    except VmError as error:
        raise StartFailed(str(error)) from None


def export_disk(
    loop: LoopThread,
    qmp: Qmp,
    disk: AttachedDisk,
    path: Path,
    *,
    format: str,
    timeout: float,
    name: str,
    qemu_img: Path,
) -> None:
    """Write the disk as it is at this moment to a new file.

    QEMU gets the file as an open descriptor, as its seal lets it open none outside of its own folder for writing.

    :raises VmError: the file is there already, or it cannot be written.
    :raises WaitTimeout: it took longer than `timeout` seconds.
    """
    _require_nothing(path, name)
    size = str(loop.run(disk.virtual_sizes(qmp))[0])
    try:
        with atomic_file(path) as file:
            descriptor = file.fileno()
            create = ("create", "-q", "-f", format, f"/proc/self/fd/{descriptor}", size)
            run_qemu_img(qemu_img, create, failure=f"{name}: {path} cannot be made", pass_fds=(descriptor,))
            loop.run(_copy(qmp, disk, descriptor, format=format, timeout=timeout, name=name))
            _require_nothing(path, name)  # somebody may have put something there meanwhile
    except OSError as error:
        raise VmError(f"{name}: {path} cannot be made: {error.strerror}") from None


def _require_nothing(path: Path, name: str) -> None:
    if path.exists() or path.is_symlink():
        raise VmError(f"{name}: {path} exists; an export writes a new file and never another's content")


def keep_overlay(instance: Instance, destination: Path, between: Sequence[ImageFile]) -> None:
    """Move the file that took the writes of a machine that has ended, with what is below it down to the base merged.

    :raises VmError: it cannot be merged.
    :raises OSError: it cannot be moved.
    """
    overlay, base = instance.overlay, instance.spec.chain
    assert overlay is not None
    instance.output_guard.refuse(destination)
    if between:
        options = [f"driver=qcow2,file.filename={escaped(str(overlay))}"]
        prefix = "backing"
        files = tuple(file for file in (*between, *base) if isinstance(file, ImageFile))  # none else is kept above
        for file in files:
            options.append(f"{prefix}.driver={file.format},{prefix}.file.filename=/proc/self/fd/{file.descriptor}")
            prefix += ".backing"
        rebase = ("rebase", "--image-opts", "-b", str(base[0].path), "-F", base[0].format, ",".join(options))
        inherited = [file.descriptor for file in files]
        failure = f"{instance.name}: its overlay cannot be kept as {destination}"
        qemu_img = instance.spec.hypervisor.qemu_img
        run_qemu_img(qemu_img, rebase, failure=failure, timeout=_MERGE_PATIENCE, pass_fds=inherited)
    destination.parent.mkdir(parents=True, exist_ok=True)
    try:
        overlay.rename(destination)  # in the place of a link that is there, not through it
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with overlay.open("rb") as source, atomic_file(destination) as target:
            sparse.copy(source.fileno(), target.fileno())


async def _copy(qmp: Qmp, disk: AttachedDisk, target: int, *, format: str, timeout: float, name: str) -> None:
    job = f"export-{secrets.token_hex(4)}"
    fdset = await qmp.hand_over(target)
    try:
        file = {"driver": "file", "filename": f"/dev/fdset/{fdset}"}
        await qmp.command("blockdev-add", {"driver": format, "node-name": job, "file": file})
        try:
            backup = {"job-id": job, "device": await disk.node(qmp), "target": job, "sync": "full"}
            await qmp.command("blockdev-backup", backup)
            completed = await qmp.next_event("BLOCK_JOB_COMPLETED", {"device": job}, timeout)
        finally:
            # A job that is still there holds the node; cancelling one that is not is refused, and so be it.
            await qmp.attempt("block-job-cancel", {"device": job, "force": True})
            await qmp.attempt("blockdev-del", {"node-name": job})
    finally:
        await qmp.attempt("remove-fd", {"fdset-id": fdset})
    if error := completed.data.get("error"):
        raise VmError(f"{name}: the disk could not be exported: {error}")
