"""What is refused is refused once a run, and what was converted has the format that it was converted to."""

import gzip
import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_readonly_vm import ImageError, VmConfig
from pytest_readonly_vm.image.bases import Bases
from pytest_readonly_vm.sources.image_sources import ImageSources
from tests.guests import bootsector
from tests.unit.packing import QEMU_IMG, tar
from tests.web_server import Site, site

pytestmark = pytest.mark.filterwarnings("ignore::pytest_readonly_vm.ImageWarning")
DISK = bootsector.hello("hello").ljust(1 << 20, b"\0")
TWO = tar(("a.img", DISK), ("b.img", DISK))


@pytest.fixture
def server() -> Iterator[Site]:
    with site() as found:
        yield found


@pytest.fixture
def sources(tmp_path: Path) -> Iterator[ImageSources]:
    found = ImageSources(pytest.fail)
    yield found
    found.close()


def refused(sources: ImageSources, config: VmConfig) -> str:
    assert config.image is not None
    with pytest.raises(ImageError) as error:
        sources.locate(config.image, config, origin="a test", qemu_img=QEMU_IMG)
    assert type(error.value) is ImageError
    return str(error.value)


@pytest.mark.parametrize("has_digest", [False, True])
def test_what_is_refused_when_it_is_here_is_downloaded_once_a_run(
    server: Site, sources: ImageSources, tmp_path: Path, has_digest: bool
) -> None:
    digest = f"sha256={hashlib.sha256(TWO).hexdigest()}&" if has_digest else ""
    config = VmConfig().replace(image=f"{server.put('two.tar', TWO)}#{digest}insecure", image_store=tmp_path / "store")
    said = {refused(sources, config) for _ in range(3)}
    assert len(said) == 1
    assert "has 2 disks in it, a.img and b.img" in said.pop()
    assert len(server.requests("two.tar")) == 1
    refused(sources, config.replace(image_store=tmp_path / "other"))
    assert len(server.requests("two.tar")) == 2


def test_a_file_that_is_refused_is_unpacked_once_unless_it_was_written(sources: ImageSources, tmp_path: Path) -> None:
    path = tmp_path / "two.tar"
    path.write_bytes(TWO)
    config = VmConfig().replace(image=path, image_store=tmp_path / "store")
    first = refused(sources, config)
    store = tmp_path / "store"
    before = store.stat().st_mtime_ns
    assert refused(sources, config) == first
    assert store.stat().st_mtime_ns == before  # where it would have been unpacked
    path.write_bytes(tar(("a.img", DISK)))
    assert sources.locate(path, config, origin="a test", qemu_img=QEMU_IMG).read_bytes() == DISK


@pytest.mark.parametrize("format", ["vmdk", "vdi", "vhdx", "vpc", "qcow2", "raw", "fixed"])
def test_the_format_that_is_given_is_that_of_what_was_packed(
    sources: ImageSources, tmp_path: Path, format: str
) -> None:
    given, options = ("vpc", ["-o", "subformat=fixed,force_size"]) if format == "fixed" else (format, [])
    raw, disk, path = tmp_path / "raw", tmp_path / "disk", tmp_path / "disk.gz"
    raw.write_bytes(DISK)
    argv = ["qemu-img", "convert", "-f", "raw", "-O", given, *options, os.fspath(raw), os.fspath(disk)]
    subprocess.run(argv, check=True)
    path.write_bytes(gzip.compress(disk.read_bytes(), 1))
    bases = Bases(sources)
    config = VmConfig().replace(image=path, format=given, image_store=tmp_path / "store")
    base, _ = bases.get(config, qemu_img=QEMU_IMG)
    assert base is not None
    assert base.format == ("raw" if format in ("raw", "fixed") else "qcow2")
    bases.close()
