"""Nothing that writes files writes over what a machine is made of, by whatever name that has."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_readonly_vm import Lab, TransferError, VirtualMachine, VmConfig, VmError
from pytest_readonly_vm.evidence.capsule.save import save_capsule
from pytest_readonly_vm.evidence.collect import collect
from tests.accelerator import ACCEL
from tests.conftest import READY
from tests.guests import bootsector
from tests.guests.tiny_linux import tiny_linux
from tests.qemu.conftest import BOOT_TIMEOUT
from tests.qemu.image_tools import layer, writer_image
from tests.qemu.waiting import GENEROUS

Images = dict[str, Path]

WRITERS: dict[str, Callable[[VirtualMachine, Path], object]] = {
    "screenshot": lambda vm, path: vm.screen.screenshot(path),
    "pull": lambda vm, path: vm.pull("/etc/passwd", path),
    "ssh_config": lambda vm, path: vm.ssh_config(path),
    "export": lambda vm, path: vm.export(path),
    "capsule": save_capsule,
    "overlay": lambda vm, path: vm.close(keep_overlay_as=path),
}


def other_spelling(there: Path, folder: Path) -> Path:
    return folder / os.path.relpath(there, folder)


def symbolic_link(there: Path, folder: Path) -> Path:
    (folder / "link").symlink_to(there)
    return folder / "link"


def hard_link(there: Path, folder: Path) -> Path:
    (folder / "link").hardlink_to(there)
    return folder / "link"


NAMES: dict[str, Callable[[Path, Path], Path]] = {
    "itself": lambda there, folder: there,
    "another spelling": other_spelling,
    "a symbolic link": symbolic_link,
    "a hard link": hard_link,
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    folder = tmp_path_factory.mktemp("images")
    below = writer_image(folder / "below.img")
    user_data = folder / "user-data"
    user_data.write_text("#cloud-config\n")
    return {
        "the base image": layer(folder / "base.qcow2", "qcow2", below, "raw"),
        "a layer of the base image": below,
        "the user data that machines are started with": user_data,
        "the base image of others": layer(folder / "other.qcow2", "qcow2", below, "raw"),
    }


@pytest.fixture(scope="module")
def config(images: Images) -> VmConfig:
    return VmConfig().replace(
        image=images["the base image"], memory="16M", accel=ACCEL,
        ready=f"console:{READY}", no_cache=True, boot_timeout=BOOT_TIMEOUT, timeout_factor=1, snapshot="overlay",
    )  # fmt: skip


@pytest.fixture(scope="module")
def lab(images: Images) -> Iterator[Lab]:
    with Lab() as lab:
        lab.output_guard.protect(VmConfig().replace(image=images["the base image of others"]))
        lab.output_guard.protect(VmConfig().replace(user_data=images["the user data that machines are started with"]))
        yield lab


@pytest.fixture(scope="module")
def machine(lab: Lab, config: VmConfig) -> VirtualMachine:
    return lab.start(config, name="guest")


def states(images: Images) -> list[tuple[Path, bytes, int, int]]:
    found = [(path, path.read_bytes(), path.stat()) for path in images.values()]
    return [(path, content, seen.st_ino, seen.st_mtime_ns) for path, content, seen in found]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "what", ["the base image", "a layer of the base image", "the user data that machines are started with"]
)
@pytest.mark.parametrize("writer", [name for name in WRITERS if name != "overlay"])
def test_no_writer_replaces_what_machines_are_made_of(
    tmp_path: Path, images: Images, machine: VirtualMachine, writer: str, what: str, name: str
) -> None:
    before = states(images)
    path = NAMES[name](images[what], tmp_path)
    names = sorted(tmp_path.iterdir())
    sentence = "exists; an export writes a new file" if writer == "export" else f"it is {what}.*; nothing was written; "
    with pytest.raises(VmError, match=rf"{path}.*{sentence}"):
        WRITERS[writer](machine, path)
    assert sorted(tmp_path.iterdir()) == names
    assert states(images) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
@pytest.mark.parametrize("writer", [name for name in WRITERS if name != "overlay"])
def test_a_bind_mount_is_seen_through(tmp_path: Path, images: Images, machine: VirtualMachine, writer: str) -> None:
    before = states(images)
    subprocess.run(["mount", "--bind", images["the base image"].parent, tmp_path], check=True)
    try:
        with pytest.raises(VmError, match=r"it is the base image|exists; an export"):
            WRITERS[writer](machine, tmp_path / "base.qcow2")
    finally:
        subprocess.run(["umount", tmp_path], check=True)
    assert states(images) == before


def test_images_that_no_machine_has_been_started_with_count(
    images: Images, machine: VirtualMachine, tmp_path: Path
) -> None:
    before = states(images)
    with pytest.raises(VmError, match=r"other\.qcow2 cannot be written: it is the base image; nothing was written"):
        machine.screen.screenshot(images["the base image of others"])
    assert states(images) == before


def test_the_files_below_an_image_that_is_not_open_count(machine: VirtualMachine, lab: Lab, tmp_path: Path) -> None:
    below = writer_image(tmp_path / "below.img")
    lab.output_guard.protect(VmConfig().replace(image=layer(tmp_path / "top.qcow2", "qcow2", below, "raw")))
    content = below.read_bytes()
    with pytest.raises(VmError, match=r"it is a layer of the base image .*/top\.qcow2"):
        machine.screen.screenshot(below)
    assert below.read_bytes() == content


@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
def test_evidence_is_not_written_through_links(
    images: Images, machine: VirtualMachine, tmp_path: Path, link: str
) -> None:
    before = states(images)
    bystander = images["the base image"].with_name(f"bystander-{link}")
    bystander.write_text("of the user's")
    folder = bystander.parent / f"evidence-{link}"
    folder.mkdir()
    getattr(folder / "console.txt", link)(images["the base image"])
    getattr(folder / "config.json", link)(images["a layer of the base image"])
    getattr(folder / "stderr.txt", link)(bystander)
    evidence = collect(machine, folder, about={})
    assert "it is the base image; nothing was written" in evidence.missing["console.txt"]
    assert "it is a layer of the base image" in evidence.missing["config.json"]
    assert folder / "stderr.txt" in evidence.saved
    assert bystander.read_text() == "of the user's"
    assert states(images) == before


def test_what_is_neither_file_nor_link_is_not_replaced(machine: VirtualMachine, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("/dev/null")
    for name in ("fifo", "link"):
        for writer in ("screenshot", "pull", "ssh_config", "capsule"):
            with pytest.raises(VmError, match=f"{name}.*: it is no file; nothing was written"):
                WRITERS[writer](machine, tmp_path / name)
    assert (tmp_path / "fifo").is_fifo()
    assert (tmp_path / "link").is_symlink()


def test_an_ordinary_file_is_replaced_and_its_other_names_keep_it(machine: VirtualMachine, tmp_path: Path) -> None:
    (tmp_path / "other").write_text("old")
    (tmp_path / "picture.png").hardlink_to(tmp_path / "other")
    machine.screen.screenshot(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "other").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("name", NAMES)
def test_an_overlay_is_not_kept_in_the_place_of_its_base(
    images: Images, lab: Lab, config: VmConfig, tmp_path: Path, name: str
) -> None:
    before = states(images)
    vm = lab.start(config, name="guest")
    vm.kill()
    with pytest.raises(VmError, match="it is the base image; nothing was written"):
        vm.close(keep_overlay_as=NAMES[name](images["the base image"], tmp_path))
    assert states(images) == before


def test_the_data_of_the_base_is_what_it_was(images: Images, machine: VirtualMachine) -> None:
    content = images["a layer of the base image"].read_bytes()
    start = bootsector.DATA_SECTOR * bootsector.SECTOR_SIZE
    assert content[start : start + 8] == bootsector.PRISTINE


def test_what_is_pulled_into_a_folder_does_not_take_the_name_of_an_image_there(tmp_path: Path) -> None:
    guest = tiny_linux()
    image = Path(shutil.copy(guest.disk, tmp_path / "base.qcow2"))
    before = states({"": image})
    settings = VmConfig().replace(
        image=image, kernel=guest.kernel, initrd=guest.initrd, append=guest.append, memory="128M", accel=ACCEL,
        start="cold", boot_timeout=GENEROUS,
    )  # fmt: skip
    with Lab() as lab:
        vm = lab.start(settings, name="guest")
        vm.run("mkdir -p /root/tree; echo x >/root/tree/first; echo x >/root/tree/base.qcow2; mkfifo /root/tree/pipe")
        with pytest.raises(TransferError, match=r"base\.qcow2: it is the base image; nothing was written"):
            vm.pull("/root/tree/base.qcow2", tmp_path)
        with pytest.raises(TransferError, match=r"base\.qcow2' would be replaced, and it is the base image; nothing"):
            vm.pull("/root/tree", tmp_path)
        assert list(tmp_path.iterdir()) == [image]
        vm.pull("/root/tree", tmp_path / "elsewhere")
        assert sorted(path.name for path in (tmp_path / "elsewhere").iterdir()) == ["base.qcow2", "first"]
        vm.run("chmod 6755 /root/tree/first")
        vm.pull("/root/tree/first", tmp_path / "elsewhere" / "program")
        assert (tmp_path / "elsewhere" / "program").stat().st_mode & 0o7777 == 0o755
        lab.check_bases(during="it")
    assert states({"": image}) == before
