"""Owns the questions put to an image before anything starts, and the refusals, each a sentence with a next step."""

import json
import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_readonly_vm.errors import ImageError
from pytest_readonly_vm.host.process import ending
from pytest_readonly_vm.host.tool import Completed, run_tool
from pytest_readonly_vm.host.writers import has_writer
from pytest_readonly_vm.image.disk_formats import DIFFERENCING, FOOTER, end_of_cd, end_of_partitions, vhd_type
from pytest_readonly_vm.image.not_a_disk import why_not_a_disk
from pytest_readonly_vm.image.signatures import HEAD
from pytest_readonly_vm.printable import count

SUPPORTED = ("qcow2", "raw", "qed", "vmdk", "vdi", "vhdx", "vpc")

_PATIENCE = 120.0
_INCOMPLETE, _CORRUPT = 1, 2  # exit statuses of `qemu-img check`, see qemu-img(1)
_SECTOR = 512


@dataclass(frozen=True, slots=True)
class Inspected:
    """One sound file of a backing chain and its format."""

    path: Path
    format: str


def inspect_chain(path: Path, *, format: str | None, shown: str, qemu_img: Path) -> list[Inspected]:
    """An image and what it is backed by, top first. Nothing is opened for writing, nor kept open.

    `shown` names the image and its origin in the messages.

    :raises ImageError: a layer is missing, damaged, truncated, encrypted, locked by a writer or of an unsupported kind.
    """
    found: dict[str, Inspected] = {}
    # An absolute path has no colon before its first slash, so qemu-img cannot take it for a protocol.
    name, what = str(path.absolute()), shown
    # Asked one after another and not by --backing-chain, as qemu-img would open what is no file, and wait for a FIFO.
    while name:
        if name.startswith("/"):
            _refuse_what_is_no_disk(Path(name), what)
        info = _info(name, format, what, qemu_img)
        _refuse_what_info_shows(info, what)
        # JSON cannot say every name: what is not UTF-8 arrives maimed.
        layer = Inspected(Path(info["filename"]) if found else path.absolute(), info["format"])
        if any(layer.path.samefile(above.path) for above in found.values()):
            raise ImageError(f"{shown} cannot be opened: its backing file {layer.path} creates an infinite loop")
        found[what] = layer
        name = info.get("full-backing-filename", "").removeprefix("file:")
        format = info.get("backing-filename-format")
        what = f"{shown}: its backing file {name}"
    for what, layer in found.items():
        _refuse_damage(layer, what, qemu_img)
    return list(found.values())


def _refuse_differences(path: Path, what: str) -> None:
    """Of a VHD above another one QEMU shows zeros where it has nothing, without any error."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - FOOTER, 0))
        if vhd_type(file.read(FOOTER), size) == DIFFERENCING:
            raise ImageError(f"{what} is a VHD with only what differs from another one; give the disk that both make")


def _info(name: str, format: str | None, what: str, qemu_img: Path) -> dict[str, Any]:
    done = _qemu_img(qemu_img, ["info", "--output=json", *(("-f", format) if format else ()), name], what)
    if done.returncode == 0:
        found: dict[str, Any] = json.loads(done.stdout)
        return found
    words = _words(done)
    if " lock" in words:
        raise ImageError(f"{what} is open for writing in another process; end that machine or copy the image")
    raise ImageError(f"{what} cannot be opened: {words}")


def files_below(path: Path, *, qemu_img: Path) -> list[Path]:
    """What an image is backed by, as far as that can be found out."""
    done = run_tool(
        [str(qemu_img), "info", "-U", "--output=json", "--backing-chain", str(path.absolute())], timeout=_PATIENCE
    )
    try:
        return [Path(info["filename"]) for info in json.loads(done.stdout)[1:]]
    except (ValueError, TypeError, KeyError):
        return []


def refuse_writers(descriptor: int, what: str) -> None:
    """QEMU's writers hold locks as well, which qemu-img has seen by now; this finds the others, as far as can be known.

    :raises ImageError: somebody has it open for writing.
    """
    if has_writer(descriptor):
        raise ImageError(f"{what} is open for writing in another process; end that process or copy the image")


def _refuse_what_is_no_disk(path: Path, shown: str) -> None:
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
            raise ImageError(f"{shown} is {'a folder' if stat.S_ISDIR(mode) else 'neither a file nor a block device'}")
        reason = why_not_a_disk(path)
        _refuse_differences(path, shown)
    except OSError as error:
        raise ImageError(f"{shown} cannot be opened: {error.strerror}") from None
    if reason is not None:
        raise ImageError(f"{shown} {reason}")


def _refuse_what_info_shows(info: dict[str, Any], what: str) -> None:
    details = info.get("format-specific", {}).get("data", {})
    converting = "convert it: qemu-img convert -O qcow2 OLD NEW"
    if not Path(info["filename"]).is_absolute():
        raise ImageError(f"{what} is not a file of this computer; {converting}")
    if info["format"] not in SUPPORTED:
        raise ImageError(f"{what} has the format {info['format']}, not one of {', '.join(SUPPORTED)}; {converting}")
    if info.get("encrypted") or "encrypt" in details:
        raise ImageError(f"{what} is encrypted, and there is no setting for a key; {converting}")
    if details.get("corrupt"):
        raise ImageError(f"{what} is marked corrupt; try qemu-img check -r all on a copy")
    if info.get("dirty-flag"):
        raise ImageError(f"{what} was not closed properly; repair it with qemu-img check -r all")
    if "data-file" in details:
        raise ImageError(f"{what} keeps its data in a second file; {converting}")
    if any(extent["filename"] != info["filename"] for extent in details.get("extents", ())):
        raise ImageError(f"{what} is a VMDK in several files; {converting}")


def _refuse_damage(image: Inspected, what: str, qemu_img: Path) -> None:
    if image.format == "raw":
        _refuse_truncation(image, max(end_of_partitions(_head(image.path)), _end_of_cd(image.path)), what)
        return  # nothing in it is of QEMU's, so qemu-img has nothing to check
    if image.format == "vdi":  # qemu-img checks it, and does not notice
        _refuse_truncation(image, _end_of_vdi(image.path), what)
    done = _qemu_img(qemu_img, ["check", "--output=json", "-f", image.format, str(image.path)], what)
    if done.returncode in (_INCOMPLETE, _CORRUPT):
        raise ImageError(f"{what} is damaged or truncated: qemu-img check finds {_findings(done)}")


def _refuse_truncation(image: Inspected, end: int, what: str) -> None:
    """A layer that ends before its own contents do reads as zeros there, without any error from QEMU."""
    found = image.path.stat()
    if stat.S_ISREG(found.st_mode) and end > found.st_size:
        raise ImageError(f"{what} is truncated: it has {found.st_size} bytes and its contents reach {end}")


def _findings(done: Completed) -> str:
    try:
        report = json.loads(done.stdout)
    except ValueError:
        return _words(done)
    return count(report.get("corruptions", 0) + report.get("check-errors", 0), "error")


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_SECTOR)


def _end_of_cd(path: Path) -> int:
    with path.open("rb") as file:
        return end_of_cd(file.read(HEAD))


def _end_of_vdi(path: Path) -> int:
    """Where the blocks of a VDI end, by its header: offset of the data + block size * blocks allocated, in bytes."""
    with path.open("rb") as file:
        header = file.read(512)
    (data,) = struct.unpack_from("<I", header, 0x158)
    block, extra, _, allocated = struct.unpack_from("<IIII", header, 0x178)
    return int(data + (block + extra) * allocated)


def _qemu_img(binary: Path, arguments: list[str], what: str) -> Completed:
    done = run_tool([str(binary), *arguments], timeout=_PATIENCE)
    if done.returncode is None:
        raise ImageError(f"{what}: qemu-img {arguments[0]} gave no answer within {_PATIENCE:g} s")
    if done.returncode < 0:
        raise ImageError(
            f"{what}: qemu-img {arguments[0]} {ending(done.returncode)}: {_words(done) or 'no word of why'}"
        )
    return done


def _words(done: Completed) -> str:
    """A tool's complaint on one line, without its name and in bounds."""
    return " ".join(done.stderr.split()).replace("qemu-img: ", "")[:300]
