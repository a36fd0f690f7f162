"""Machines with several disks: what is on each, and that it goes with the machine wherever that goes."""

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_readonly_vm import (
    BaseImageChanged,
    Disk,
    ImageError,
    Lab,
    NewCluster,
    VirtualMachine,
    VmError,
    cluster,
    layer,
)
from pytest_readonly_vm.errors import CapsuleRefused
from pytest_readonly_vm.evidence.capsule.opened import open_capsule
from pytest_readonly_vm.evidence.capsule.resume import resume_capsule
from pytest_readonly_vm.evidence.capsule.save import save_capsule
from tests.qemu import image_tools
from tests.qemu.test_templates import tiny

SECTOR = 512


@layer
def written(vm: VirtualMachine) -> None:
    write(vm, "data", "layer")


def write(vm: VirtualMachine, disk: str, text: str) -> None:
    path = vm.disks[disk].guest_path()
    vm.run(f"echo {text} | dd of={path} bs={SECTOR} conv=sync && sync && echo 3 >/proc/sys/vm/drop_caches")


def read(vm: VirtualMachine, disk: str) -> str:
    path = vm.disks[disk].guest_path()
    return vm.run(f"head -c {SECTOR} {path} | tr -d '\\0'").stdout.strip()


def seen(vm: VirtualMachine) -> tuple[str, str]:
    return read(vm, "data"), read(vm, "from-image")


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A qcow2 file above a raw one, with a text in its first sector."""
    folder = tmp_path_factory.mktemp("disk")
    (folder / "below.raw").write_bytes(b"image\n".ljust(1 << 20, b"\0"))
    return image_tools.layer(folder / "top.qcow2", "qcow2", folder / "below.raw", "raw")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def several(lab: Lab, image: Path, **settings: object) -> VirtualMachine:
    disks = ("data:64M,serial=S-7", Disk("from-image", image=image))
    return tiny(lab, **{"disks": disks, "start": "clone", "layers": written} | settings)


def digests(image: Path) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in (image, image.with_name("below.raw"))]


def test_each_disk_goes_with_the_machine(lab: Lab, image: Path, cache: Path) -> None:
    before = digests(image)
    vm = several(lab, image, cache=cache, no_cache=False)
    assert (vm.manner, vm.disk.name, list(vm.disks)) == ("clone", "disk0", ["disk0", "data", "from-image"])
    assert vm.disks["data"].guest_path() == "/dev/vdb"
    assert vm.run("cat /sys/block/vdb/serial /sys/block/vd[bc]/size").stdout == f"S-7{128 << 10}\n{2 << 10}\n"
    assert seen(vm) == ("layer", "image")
    write(vm, "from-image", "one")
    with vm.checkpoint():
        write(vm, "data", "two")
        write(vm, "from-image", "three")
        with vm.fork() as (fork,):
            assert seen(fork) == ("two", "three")
            write(fork, "data", "fork")
            assert seen(vm) == ("two", "three")
    assert seen(vm) == ("layer", "one")
    vm.reset()
    assert seen(vm) == ("layer", "image")
    assert lab.check_bases(during="the test")
    assert digests(image) == before


def test_frozen_disks_are_kept_for_later_runs(lab: Lab, image: Path, cache: Path) -> None:
    vm = several(lab, image, cache=cache, no_cache=False)
    assert (vm.manner, lab.layers) == ("clone", [])
    assert seen(vm) == ("layer", "image")
    assert [boot.manner for boot in lab.boots] == ["clone"]


def test_a_machine_may_have_blank_disks_only(lab: Lab) -> None:
    vm = tiny(lab, image=None, disks="data:1M", start="clone")
    assert (vm.manner, vm.disk.name) == ("clone", "data")
    write(vm, "data", "text")
    assert read(vm, "data") == "text"
    vm.reset()
    assert read(vm, "data") == ""


def test_each_can_be_exported_and_no_image_is_written_over(lab: Lab, image: Path, tmp_path: Path) -> None:
    vm = several(lab, image, start="cold")
    vm.disks["data"].export(tmp_path / "data.raw", format="raw")
    assert (tmp_path / "data.raw").read_bytes()[:6] == b"layer\n"
    with pytest.raises(VmError, match="it is the image of a disk that machines are started with"):
        save_capsule(vm, image)


def test_an_image_that_is_written_by_others_is_told(lab: Lab, tmp_path: Path) -> None:
    image = tmp_path / "it.raw"
    image.write_bytes(bytes(1 << 20))
    tiny(lab, image=None, disks=Disk("data", image=image, format="raw"), start="cold")
    image.write_bytes(bytes(1 << 20))
    with pytest.raises(BaseImageChanged, match=r"it\.raw"):
        lab.check_bases(during="the test")


@pytest.fixture(scope="module")
def capsule(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("capsule") / "it.vmcapsule"
    with Lab() as lab:
        vm = several(lab, image)
        write(vm, "from-image", "saved")
        with vm.checkpoint():  # so that there is a file between
            write(vm, "data", "late")
            save_capsule(vm, path)
    return path


class TestACapsule:
    def test_it_has_all_disks(self, lab: Lab, capsule: Path) -> None:
        with open_capsule(capsule) as opened:
            assert seen(resume_capsule(lab, opened)) == ("late", "saved")

    def test_an_image_elsewhere_is_named_by_its_disk(
        self, lab: Lab, capsule: Path, image: Path, tmp_path: Path
    ) -> None:
        hidden = image.rename(image.with_name("hidden"))
        try:
            with open_capsule(capsule) as opened:
                with pytest.raises(ImageError, match=r"the image of the disk from-image .* --disk=from-image=PATH"):
                    resume_capsule(lab, opened)
                with pytest.raises(CapsuleRefused, match="has images in from-image, and not in data"):
                    resume_capsule(lab, opened, disks={"data": hidden})
                assert seen(resume_capsule(lab, opened, disks={"from-image": hidden})) == ("late", "saved")
                shutil.copy(image.with_name("below.raw"), tmp_path / "below.raw")
                other = image_tools.layer(tmp_path / "other", "qcow2", tmp_path / "below.raw", "raw")
                with pytest.raises(ImageError, match="is not the image of the disk from-image of"):
                    resume_capsule(lab, opened, disks={"from-image": other})
        finally:
            hidden.rename(image)


@cluster
def pair(new: NewCluster) -> None:
    for name in ("one", "two"):
        write(new.machine(name), "data", f"of-{name}")


def test_those_of_a_cluster_are_formed_once(lab: Lab, image: Path) -> None:
    vm = several(lab, image)
    formed = lab.start_cluster(vm.config.replace(cluster=pair, layers=()), name="pair")
    assert [seen(machine) for machine in formed] == [("of-one", "image"), ("of-two", "image")]
    write(formed["one"], "data", "changed")
    formed.reset()
    assert [seen(machine) for machine in formed] == [("of-one", "image"), ("of-two", "image")]
