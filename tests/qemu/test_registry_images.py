"""A containerdisk of a registry boots as any other image, and a list says which one it is when its tag moves."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_readonly_vm import VirtualMachine
from pytest_readonly_vm.cli import main
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
