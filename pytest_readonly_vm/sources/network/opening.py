"""Owns the opening of an image that stays on the network: what it is, what proves it, and the refusals."""

import hashlib
import json
import secrets
import struct
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from pytest_readonly_vm.config.network_image import NetworkImage
from pytest_readonly_vm.errors import DownloadError, ImageError, VmError
from pytest_readonly_vm.host.loop import LoopThread
from pytest_readonly_vm.host.tool import run_tool
from pytest_readonly_vm.image.disk_formats import end_of_partitions, is_disk, virtual_size
from pytest_readonly_vm.image.network_file import NetworkFile, NetworkFingerprint, socket_node
from pytest_readonly_vm.image.not_a_disk import why_no_content_of_a_disk
from pytest_readonly_vm.image.signatures import HEAD, is_cd, packing_of
from pytest_readonly_vm.printable import count
from pytest_readonly_vm.sources.network.block_reader import BlockReader
from pytest_readonly_vm.sources.network.server import ImageServer, Refused, Told, Unanswered

FORMATS = ("qcow2", "raw")
"""Those that such an image may be in: all of it is in one file, and a guest can be frozen with it."""

_CHECK_PATIENCE = 120.0
_DAMAGED = (1, 2)  # exit statuses of `qemu-img check`: it was not completed, errors were found
_DATA_FILE = 1 << 2  # of qcow2's incompatible features, docs/interop/qcow2.txt
_DIRTY, _CORRUPT = 1, 2
_VDI = b"\x7f\x10\xda\xbe"
_DOWNLOAD = "have the image downloaded, by https:// or oci://, which converts it"


def open_network_image(
    image: NetworkImage,
    loop: LoopThread,
    *,
    format: str | None,
    shown: str,
    patience: float,
    reads_all: bool,
    qemu_img: Path,
    warn: Callable[[str], object],
) -> NetworkFile:
    """Look at an image on the network, refuse what cannot be a base, and keep the rest open.

    :param shown: what it is and who has named it.
    :param patience: seconds that the server has for each answer.
    :param reads_all: whether its digest is compared by reading all of it, where the server tells none.
    :param warn: is given a sentence where a digest could not be compared.
    :raises DownloadError: the server does not answer, or does not give it.
    :raises ImageError: it is damaged, or of a kind that cannot be used so.
    :raises BaseImageLost: the server answers no longer.
    :raises HostError: something is not installed.
    """
    reader = BlockReader(_server(image, patience), loop, shown, patience=patience)
    try:
        told = reader.open()
        fingerprint = _fingerprint(image, told)
        file = NetworkFile(image, "raw", told.size, fingerprint, reader)
        _compare_digest(file, image, told, shown, reads_all=reads_all, warn=warn)
        file = _inspected(file, format, shown)
        if file.format == "qcow2":
            _refuse_damage(file, shown, qemu_img)
    except (Refused, Unanswered) as error:
        reader.close()
        raise DownloadError(f"{shown} {error}") from None
    except BaseException:
        reader.close()
        raise
    return file


def _server(image: NetworkImage, patience: float) -> ImageServer:
    if image.is_on_the_web:
        from pytest_readonly_vm.sources.network.web_ranges import WebRanges  # which loads urllib3

        return WebRanges(image, patience=patience)
    from pytest_readonly_vm.sources.network.nbd_server import NbdServer

    return NbdServer(image)


def _fingerprint(image: NetworkImage, told: Told) -> NetworkFingerprint:
    stated = str(image.digest) if image.digest else ""
    parts = urlsplit(image.url)
    # A signature in the query is another each day; what it is of has an ETag.
    url = image.url.partition("?")[0] if image.is_on_the_web and parts.query else image.url
    return NetworkFingerprint(
        hashlib.sha256(url.encode(errors="surrogateescape")).hexdigest(),
        told.size,
        told.etag,
        told.modified,
        f"{stated or told.sha256}",
        run="" if stated or told.etag or told.sha256 else secrets.token_hex(16),
    )


def _compare_digest(
    file: NetworkFile,
    image: NetworkImage,
    told: Told,
    shown: str,
    *,
    reads_all: bool,
    warn: Callable[[str], object],
) -> None:
    """:raises ImageError: it is not what its digest says."""
    wanted = image.digest
    if wanted is None:
        return
    found = told.sha256 if wanted.algorithm == "sha256" else ""
    how = "its server says"
    if not found and reads_all:
        digest = hashlib.new(wanted.algorithm)
        for offset in range(0, told.size, 4 << 20):
            digest.update(file.read(offset, 4 << 20))
        found, how = digest.hexdigest(), "it has"
    if not found:
        warn(
            f"{shown}: {image.says} is believed: its server tells no {wanted.algorithm}; "
            "--vm-verify=hash reads all of it to compare"
        )
    elif found != wanted.hex:
        raise DownloadError(
            f"{shown} is not what it should be: {how} {wanted.algorithm}:{found}, and {image.says} says {wanted}"
        )


def _inspected(file: NetworkFile, format: str | None, shown: str) -> NetworkFile:
    size = file.fingerprint.size
    head = file.read(0, max(HEAD, 1 << 16))
    if packing_of(head) is not None and not is_disk(head) and format is None:
        raise ImageError(f"{shown} is packed, and is read where it is; {_DOWNLOAD}")
    found = format or ("qcow2" if head.startswith(b"QFI\xfb") else "raw")
    if found == "raw" and (reason := why_no_content_of_a_disk(head, size, file.path.name or "IMAGE")):
        raise ImageError(f"{shown} {reason}")
    other = head.startswith((b"KDMV", b"COWD", b"vhdxfile", b"conectix", b"QED\0")) or head[64:68] == _VDI
    if found not in FORMATS or (other and format is None):
        formats = " and ".join(FORMATS)
        raise ImageError(f"{shown} is in none of the formats that are read where they are, {formats}; {_DOWNLOAD}")
    if found == "raw":
        if format is None and is_cd(head):
            raise ImageError(f"{shown} is a CD; a CD is read from a file of this computer: {_DOWNLOAD}")
        if (end := end_of_partitions(head)) > size:
            raise ImageError(f"{shown} is truncated: it has {size} bytes and its contents reach {end}")
        return file.in_format("raw", size)
    return file.in_format("qcow2", _size_of_qcow2(head, shown))


def _size_of_qcow2(head: bytes, shown: str) -> int:
    """The size of the disk.

    :raises ImageError: the header names another file, or says that it is not fit to be used.
    """
    disk = virtual_size(head)
    if disk is None or len(head) < 104 or not head.startswith(b"QFI\xfb"):
        raise ImageError(f"{shown} is no qcow2, or is truncated")
    version, below, crypt = struct.unpack_from(">IQ16xI", head, 4)
    (features,) = struct.unpack_from(">Q", head, 72)
    features = features if version >= 3 else 0
    if below or features & _DATA_FILE:
        raise ImageError(
            f"{shown} takes another file, which a server's image must not name; have it made one: "
            "qemu-img convert -O qcow2 OLD NEW"
        )
    if crypt:
        raise ImageError(f"{shown} is encrypted, and there is no setting for a key")
    if features & (_DIRTY | _CORRUPT):
        raise ImageError(f"{shown} was not closed properly, or is marked corrupt; try qemu-img check -r all on a copy")
    return disk


def _refuse_damage(file: NetworkFile, shown: str, qemu_img: Path) -> None:
    """Read the tables of a qcow2, and compare them; what is in it stays where it is."""
    troubles: list[VmError] = []
    line = file.reader.lend(lambda trouble: troubles.append(trouble.error(shown)))
    try:
        number = line.socket.fileno()
        node = {"driver": "qcow2", "read-only": True, "backing": None, "file": socket_node(number)}
        argv = (str(qemu_img), "check", "--output=json", f"json:{json.dumps(node)}")
        done = run_tool(argv, timeout=_CHECK_PATIENCE, pass_fds=(number,))
    finally:
        line.socket.close()
        line.close()
    if troubles:
        raise troubles[0]
    if done.returncode in _DAMAGED:
        try:
            report = json.loads(done.stdout)
            said = count(report.get("corruptions", 0) + report.get("check-errors", 0), "error")
        except ValueError:
            said = " ".join(done.stderr.split())[:300]
        raise ImageError(f"{shown} is damaged or truncated: qemu-img check finds {said}")
    if done.returncode is None:
        raise ImageError(f"{shown}: qemu-img check gave no answer within {_CHECK_PATIENCE:g} s")
