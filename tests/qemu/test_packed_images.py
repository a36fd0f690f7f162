"""A packed image boots as the disk that is in it, is unpacked once, proved untouched, and guests are cloned from it."""

import bz2
import gzip
import hashlib
import lzma
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_readonly_vm import ImageError, Lab, VmConfig
from tests.guests import bootsector
from tests.guests.cd import write_cd
from tests.qemu.image_tools import run, writer_image

WRITTEN = "console:^written"
OVF = """\
<?xml version="1.0"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1">
<References><File ovf:href="x.vmdk" ovf:id="file1"/></References>
<DiskSection><Disk ovf:diskId="disk1" ovf:fileRef="file1"/></DiskSection></Envelope>
"""


def tarred(folder: Path, *names: str, mode: str = "w") -> bytes:
    with tarfile.open(folder / "archive", mode) as archive:  # type: ignore[call-overload]
        for name in names:
            archive.add(folder / name, arcname=name)
    return (folder / "archive").read_bytes()


def raw_xz(folder: Path) -> bytes:
    return lzma.compress(writer_image(folder / "x.raw").read_bytes())


def img_gz(folder: Path) -> bytes:
    return gzip.compress(writer_image(folder / "x.img").read_bytes())


def raw_bz2(folder: Path) -> bytes:
    return bz2.compress(writer_image(folder / "x.raw").read_bytes())


def qcow2_zst(folder: Path) -> bytes:
    image = writer_image(folder / "x.qcow2", "qcow2")
    return subprocess.run(["zstd", "-qc", image], capture_output=True, check=True).stdout


def box(folder: Path) -> bytes:
    writer_image(folder / "box.img", "qcow2")
    (folder / "metadata.json").write_text('{"provider": "libvirt", "format": "qcow2", "virtual_size": 1}')
    (folder / "Vagrantfile").write_text("Vagrant.configure('2') {}\n")
    return tarred(folder, "metadata.json", "Vagrantfile", "box.img", mode="w:gz")


def ova(folder: Path) -> bytes:
    writer_image(folder / "x.vmdk", "vmdk", "subformat=streamOptimized")
    (folder / "x.ovf").write_text(OVF)
    (folder / "x.mf").write_text("SHA256(x.ovf)= 00\n")
    return tarred(folder, "x.ovf", "x.mf", "x.vmdk")


def vhd_zip(folder: Path) -> bytes:
    writer_image(folder / "x.vhd", "vpc", "subformat=fixed", "force_size")
    with zipfile.ZipFile(folder / "archive", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(folder / "x.vhd", "x.vhd")
    return (folder / "archive").read_bytes()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def config(small: Callable[..., VmConfig], store: Path) -> Callable[..., VmConfig]:
    return lambda image, **settings: small(image, image_store=store, ready=WRITTEN, start="clone", **settings)


@pytest.mark.parametrize("pack", [raw_xz, img_gz, raw_bz2, qcow2_zst, box, ova, vhd_zip])
def test_the_disk_in_what_is_packed_boots_and_is_cloned(
    tmp_path: Path, store: Path, config: Callable[..., VmConfig], pack: Callable[[Path], bytes]
) -> None:
    (tmp_path / "made").mkdir()
    image = tmp_path / "packed"
    image.write_bytes(pack(tmp_path / "made"))
    with Lab() as lab:
        for _ in range(2):
            guest = lab.start(config(image), name="guest")
            assert guest.manner == "clone"
            assert "sector=pristine" in guest.console.text
            guest.close()
        [base] = lab.check_bases(during="a test")
    assert isinstance(base, Path)
    assert base.is_relative_to(store)
    assert base.stat().st_mode & 0o777 == 0o400
    before = hashlib.sha256(base.read_bytes()).digest(), base.stat().st_ino
    with Lab() as lab:
        lab.start(config(image), name="guest").close()
        assert lab.check_bases(during="a test") == (base,)
    assert (hashlib.sha256(base.read_bytes()).digest(), base.stat().st_ino) == before


def test_a_packed_cd_is_a_cd(tmp_path: Path, config: Callable[..., VmConfig]) -> None:
    cd = write_cd(tmp_path / "x.iso", bootsector.hello("from the CD\n"))
    blank = tmp_path / "blank.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", blank, "8M")
    packed = tmp_path / "x.iso.xz"
    packed.write_bytes(lzma.compress(cd.read_bytes()))
    with Lab() as lab:
        for image, cdrom in ((packed, None), (blank, packed)):
            guest = lab.start(config(image, cdrom=cdrom).replace(ready="console:from the CD"), name="guest")
            assert guest.instance.spec.cd is not None


def test_what_is_refused_leaves_nothing_in_the_store(
    tmp_path: Path, store: Path, config: Callable[..., VmConfig]
) -> None:
    (tmp_path / "made").mkdir()
    image = tmp_path / "packed.gz"
    image.write_bytes(img_gz(tmp_path / "made")[:-1])
    with Lab() as lab:
        for _ in range(2):
            with pytest.raises(ImageError, match=r"^base image .*packed\.gz \(from .*\) is truncated: it ends within"):
                lab.start(config(image), name="guest")
    assert [path for path in store.rglob("*") if path.is_file()] == []
