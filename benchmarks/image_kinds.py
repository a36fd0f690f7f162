"""Measures how long it takes until the disk of an image is here, for each way in which an image can be given: the first
time, when it is brought here and unpacked, and in later runs, when the store has it. To the first command it is then as
long as for any other image: a boot, later a copy.
"""

import bz2
import gzip
import hashlib
import lzma
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from benchmarks import guests
from benchmarks.samples import Samples
from benchmarks.table import Table
from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.host.qemu_binary import find_qemu_img
from pytest_readonly_vm.image.bases import Bases
from pytest_readonly_vm.sources.image_sources import ImageSources
from tests.registry import LAYER, layer, registry
from tests.web_server import site

RUNS = 3

_OVF = """\
<?xml version="1.0"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1">
  <References><File ovf:href="disk.vmdk" ovf:id="file1"/></References>
  <DiskSection><Disk ovf:diskId="disk1" ovf:fileRef="file1" ovf:capacity="1"/></DiskSection>
</Envelope>
"""


def tables(runs: int) -> Iterator[Table]:
    """One of the first time, one of the next."""
    with TemporaryDirectory(dir="/var/tmp") as name, ExitStack() as servers:
        folder = Path(name)
        config = guests.full()
        first = Table("a Debian of 410 MiB (2 GiB with its holes), until its disk is here: an empty store", "s")
        later = Table("the same in later runs", "ms")
        for kind, image in _images(Path(str(config.image)), folder, servers):
            wanted = config.replace(image=image, image_store=folder / "store")
            first.add(kind, Samples((_seconds(wanted),)))
            later.add(kind, Samples(tuple(_seconds(wanted) for _ in range(runs))))
            shutil.rmtree(folder / "store", ignore_errors=True)
        first.notes.append("Files are in the page cache, servers on loopback.")
        yield first
        yield later


def _seconds(config: VmConfig) -> float:
    bases = Bases(ImageSources(lambda sentence: None))
    start = perf_counter()
    try:
        bases.get(config, qemu_img=find_qemu_img(None))
        return perf_counter() - start
    finally:
        bases.close()


def _images(disk: Path, folder: Path, servers: ExitStack) -> Iterator[tuple[str, object]]:
    """What is given as the image, by what people call it."""

    def converted(name: str, format: str, *options: str) -> Path:
        _run("qemu-img", "convert", "-O", format, *options, disk, folder / name)
        return folder / name

    def packed(name: str, source: Path, pack: Callable[[bytes], bytes]) -> Path:
        (folder / name).write_bytes(pack(source.read_bytes()))
        return folder / name

    raw, vmdk = converted("disk.raw", "raw"), converted("disk.vmdk", "vmdk", "-o", "subformat=streamOptimized")
    yield ".qcow2, a path", disk
    yield ".raw, a path", raw
    yield ".vhd, a path", converted("disk.vhd", "vpc")
    yield ".qcow2.xz", packed("disk.qcow2.xz", disk, lambda data: lzma.compress(data, preset=1))
    yield ".qcow2.gz", packed("disk.qcow2.gz", disk, lambda data: gzip.compress(data, 1))
    yield ".qcow2.bz2", packed("disk.qcow2.bz2", disk, lambda data: bz2.compress(data, 1))
    _run("zstd", "-q1", raw, "-o", folder / "disk.raw.zst")
    yield ".raw.zst", folder / "disk.raw.zst"
    raw.unlink()
    with zipfile.ZipFile(folder / "disk.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.write(disk, "disk.qcow2")
    yield ".zip", folder / "disk.zip"
    yield ".box of Vagrant", _archive(folder / "debian.box", "w:gz", {"metadata.json": b"{}", "box.img": disk})
    yield ".ova", _archive(folder / "debian.ova", "w", {"debian.ovf": _OVF.encode(), "disk.vmdk": vmdk})
    content = disk.read_bytes()
    server = servers.enter_context(site())
    server.put("SHA256SUMS", f"{hashlib.sha256(content).hexdigest()}  debian.qcow2\n".encode())
    yield "URL of a .qcow2", f"{server.put('debian.qcow2', content)}#insecure"
    shelf = servers.enter_context(registry(folder / "registry"))
    shelf.artefact("debian", shelf.blob(gzip.compress(layer({"disk/debian.qcow2": content}), 1), LAYER))
    yield "containerdisk in a registry", f"oci://{shelf.host}/images:debian"


def _archive(path: Path, mode: str, members: dict[str, bytes | Path]) -> Path:
    with TemporaryDirectory() as folder, tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            if isinstance(content, bytes):
                source = Path(folder) / name
                source.write_bytes(content)
            else:
                source = content
            archive.add(source, name)
    return path


def _run(*command: object) -> None:
    subprocess.run([str(word) for word in command], check=True)
