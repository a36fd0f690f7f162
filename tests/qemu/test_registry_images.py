"""A containerdisk of a registry boots as any other image, and a list says which one it is when its tag moves."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_readonly_vm import VirtualMachine, VmConfig
from pytest_readonly_vm.cli import main
from pytest_readonly_vm.host.qemu_binary import find_qemu_img
from pytest_readonly_vm.image.bases import Bases
from pytest_readonly_vm.sources.image_sources import ImageSources
from tests.qemu.image_tools import run, writer_image
from tests.qemu.test_images import WRITTEN, sees_its_own_writes_only
from tests.registry import LAYER, Registry, layer, packed, registry


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry(tmp_path_factory.mktemp("registry")) as found:
        yield found


def containerdisk(folder: Path) -> bytes:
    """The layer of one that has the guest `writer` as a qcow2."""
    raw, disk = folder / "disk.raw", folder / "disk.qcow2"
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", writer_image(raw), disk)
    return packed(layer({"disk/writer.qcow2": disk.read_bytes()}))


def test_a_containerdisk_boots(shelf: Registry, tmp_path: Path, boot: Callable[..., VirtualMachine]) -> None:
    shelf.artefact("boots", shelf.blob(containerdisk(tmp_path), LAYER))
    store = tmp_path / "store"
    sees_its_own_writes_only(boot(f"oci://{shelf.host}/images:boots", ready=WRITTEN, image_store=store))
    assert not list((store / "downloads").iterdir())
    assert len(list(store.glob("*/manifest.json"))) == 1


def test_an_index_for_another_processor_can_be_named(
    shelf: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    platform = {"os": "linux", "architecture": "s390x"}
    shelf.index("other", shelf.artefact("part", shelf.blob(b"old", "x/disk"), platform=platform))
    assert main(["image", "add", "disk", f"oci://{shelf.host}/images:other"]) == 1
    assert main(["image", "add", "disk", f"oci://{shelf.host}/images:other", "--set", "arch=s390x"]) == 0
    assert main(["image", "update"]) == 0
    assert "nothing has moved" in capsys.readouterr().out


def test_a_tag_that_moves_is_shown_before_it_is_written(
    shelf: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = shelf.artefact("moves", shelf.blob(b"old", "x/disk"))["digest"]
    assert main(["image", "add", "disk", f"oci://{shelf.host}/images:moves"]) == 0
    after = shelf.artefact("moves", shelf.blob(b"new", "x/disk"))["digest"]
    capsys.readouterr()
    assert main(["image", "update", "--yes"]) == 0
    shown = capsys.readouterr().out
    assert before[:18] in shown
    assert after[:18] in shown
    assert after in (tmp_path / "vm-images.toml").read_text()


def test_machines_of_two_architectures_have_each_its_own_disk_of_an_index(shelf: Registry, tmp_path: Path) -> None:
    parts = []
    for arch in ("amd64", "arm64"):
        disk = writer_image(tmp_path / f"{arch}.raw").read_bytes() + arch.encode().ljust(512, b"\0")
        platform = {"architecture": arch, "os": "linux"}
        parts.append(shelf.artefact(f"one-{arch}", shelf.blob(disk, "x/disk"), platform=platform))
    shelf.index("both", *parts)
    bases = Bases(ImageSources(lambda sentence: None))
    found = {}
    for settings in ({"arch": "x86_64"}, {"arch": "arm64"}, {"qemu": "/opt/qemu-system-aarch64"}):
        wanted = VmConfig().replace(image=f"oci://{shelf.host}/images:both", image_store=tmp_path / "store", **settings)
        base, _ = bases.get(wanted, qemu_img=find_qemu_img(None))
        assert base is not None
        assert isinstance(base.path, Path)
        found[str(settings)] = base.path.read_bytes().rstrip(b"\0")[-5:]
    bases.close()
    assert list(found.values()) == [b"amd64", b"arm64", b"arm64"]
