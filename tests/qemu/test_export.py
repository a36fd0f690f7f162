"""An export is a new image with the guest's writes in it, that needs no other; the base has no part in it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_readonly_vm import Lab, VirtualMachine, VmConfig, VmError
from tests.guests import bootsector
from tests.guests.tiny_linux import READY, tiny_linux
from tests.qemu.conftest import STARTS
from tests.qemu.image_tools import data_sector, info, layer, writer_image

WRITTEN = "console:^written"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    below = writer_image(tmp_path / "below.img")
    return layer(tmp_path / "base.qcow2", "qcow2", below, "raw")


@pytest.fixture(params=STARTS)
def machine(boot: Callable[..., VirtualMachine], base: Path, request: pytest.FixtureRequest) -> VirtualMachine:
    return boot(base, ready=WRITTEN, start=request.param)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("format", ["qcow2", "raw", "vdi"])
@pytest.mark.parametrize("snapshot", ["temporary", "overlay"])
def test_has_what_the_guest_wrote_and_boots(
    tmp_path: Path, base: Path, boot: Callable[..., VirtualMachine], snapshot: str, format: str, start: str
) -> None:
    machine = boot(base, ready=WRITTEN, snapshot=snapshot, start=start)
    before = base.read_bytes()
    exported = tmp_path / f"exported.{format}"
    machine.export(exported, format=format)
    assert machine.qmp.execute("query-status")["running"]
    machine.close()
    assert info(exported)["format"] == format
    assert "backing-filename" not in info(exported)
    assert data_sector(exported) == bootsector.MODIFIED
    assert base.read_bytes() == before
    assert "sector=modified" in boot(exported, ready=WRITTEN).console.text


def test_can_be_made_again_and_again(tmp_path: Path, machine: VirtualMachine) -> None:
    for number in range(3):
        machine.export(tmp_path / f"{number}.qcow2")
    assert [node["node-name"] for node in machine.qmp.execute("query-named-block-nodes") if "export" in str(node)] == []
    assert all(not group["fds"] or group["fdset-id"] < 1000 for group in machine.qmp.execute("query-fdsets"))


def test_never_replaces_a_file_least_of_all_the_base(tmp_path: Path, base: Path, machine: VirtualMachine) -> None:
    (tmp_path / "link").symlink_to("nothing")
    for there in (base, tmp_path / "below.img", tmp_path / "link"):
        with pytest.raises(VmError, match=f"{there} exists; an export writes a new file"):
            machine.export(there)


@pytest.mark.parametrize(
    ("path", "format", "sentence"),
    [
        ("nowhere/exported.qcow2", "qcow2", "nowhere/exported.qcow2 cannot be made: .*No such file or directory"),
        ("exported", "gif", "exported cannot be made: .*Unknown file format 'gif'"),
    ],
)
def test_what_cannot_be_made_is_a_sentence_and_leaves_nothing(
    tmp_path: Path, machine: VirtualMachine, path: str, format: str, sentence: str
) -> None:
    before = set(tmp_path.iterdir())
    with pytest.raises(VmError, match=sentence):
        machine.export(tmp_path / path, format=format)
    assert set(tmp_path.iterdir()) == before


def test_a_machine_without_a_disk_has_none(tmp_path: Path, small: Callable[..., VmConfig]) -> None:
    guest = tiny_linux()
    direct = {"image": None, "kernel": guest.kernel, "initrd": guest.initrd, "append": guest.append, "memory": "128M"}
    with Lab() as lab:
        machine = lab.start(small("hello", ready=f"console:{READY}").replace(**direct), name="guest")
        with pytest.raises(VmError, match="the machine has no disk"):
            machine.export(tmp_path / "exported")
