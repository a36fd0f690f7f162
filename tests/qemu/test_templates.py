"""What can be frozen, what is told where it cannot, and that nobody can change what was."""

import hashlib
import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_readonly_vm import ConfigurationError, GuestDied, Lab, QmpError, VirtualMachine, VmConfig, VmError, layer
from tests.accelerator import ACCEL
from tests.conftest import READY
from tests.guests import bootsector
from tests.guests.tiny_linux import tiny_linux
from tests.qemu.attacks import ATTACKS, ON_ITS_OWN_DISK, Attack
from tests.qemu.waiting import GENEROUS

SLOW = ("-boot", "menu=on,splash-time=600")
"""The BIOS waits so many milliseconds for a key, so that a boot takes longer than a copy."""

BY_NAME = [attack for attack in ATTACKS if attack.name in ("qmp pmemsave", "qmp migrate exec", "qmp blockdev-add")]
"""Attacks that are sure to change a file that they can reach by its name."""

Start = Callable[..., VirtualMachine]


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


@pytest.fixture
def start(lab: Lab, small: Callable[..., VmConfig]) -> Start:
    """Start the guest `writer`, or another, which boots in a fifth of a second; frozen guests are not kept."""

    def start(guest: str = "writer", **settings: object) -> VirtualMachine:
        common = {"start": "clone", "no_cache": True, "ready": "console:^written" if guest == "writer" else "none"}
        return lab.start(small(guest, **common | settings), name="guest")

    return start


def tiny(lab: Lab, **settings: object) -> VirtualMachine:
    guest = tiny_linux()
    files = {"image": guest.disk, "kernel": guest.kernel, "initrd": guest.initrd, "append": guest.append}
    common: dict[str, object] = {"memory": "128M", "accel": ACCEL, "no_cache": True, "boot_timeout": GENEROUS}
    return lab.start(VmConfig().replace(**files | common | settings), name="guest")


def boots_again_from_its_own_disk(vm: VirtualMachine) -> None:
    """The guest `writer` finds what it wrote when it booted for the template, and can write again."""
    vm.qmp.execute("system_reset")
    vm.console.expect("sector=modified", timeout=GENEROUS)
    vm.console.expect("^written", timeout=GENEROUS)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lab, VmConfig, Path]]:
    """A lab that has its template from a folder, and the files of that."""
    folder = tmp_path_factory.mktemp("attacked")
    image = bootsector.write_image(folder / "base.img", bootsector.writer(READY))
    settings = {"image": image, "memory": "16M", "accel": ACCEL, "ready": "console:^written", "seal": "require"}
    config = VmConfig().replace(**settings, start="clone", cache=folder / "cache", boot_timeout=GENEROUS)
    with Lab() as first:
        first.start(config, name="first")
    with Lab() as lab:
        lab.start(config, name="second")  # has loaded the template, which counts as its use
        yield lab, config, folder


made: list[int] = []
"""The machines in which a layer was made, by the ids of their processes."""


@layer
def noted(vm: VirtualMachine) -> None:
    made.append(vm.pid)


@layer
def second_time_lucky(vm: VirtualMachine) -> None:
    made.append(vm.pid)
    if len(made) == 1:
        raise LookupError("no such package")


@layer
def fatal(vm: VirtualMachine) -> None:
    vm.kill()


@layer
def goes_back(vm: VirtualMachine) -> None:
    vm.reset()


class TestAuto:
    def test_a_slow_guest_is_frozen_and_a_quick_one_is_not_and_why(self, lab: Lab, start: Start) -> None:
        for _ in range(2):
            start(start="auto").close()
        quick = [boot for boot in lab.boots if boot.seconds < 0.5]
        assert lab.boots[0].manner == "boot"
        assert all("which a copy would not better" in boot.reason for boot in quick if boot.manner == "boot")
        assert (lab.boots[1].manner == "boot") == (lab.boots[0] in quick)  # a busy computer may make it a slow one
        assert start().manner == "clone"  # for who insists
        lab.boots.clear()
        for _ in range(2):
            start(start="auto", qemu_args=SLOW).close()
        assert [(boot.manner, boot.reason) for boot in lab.boots] == [("boot", ""), ("clone", ""), ("clone", "")]

    def test_a_linux_that_cannot_be_frozen_is_handed_over_as_it_booted(self, lab: Lab) -> None:
        vm = tiny(lab, start="auto", disk_interface="nvme", qemu_args=SLOW)
        assert vm.run("echo works").stdout == "works\n"
        assert vm.manner == "boot"
        [boot] = lab.boots
        assert "State blocked by non-migratable device" in boot.reason
        assert "nvme" in boot.reason
        assert vm.overlay is None
        assert list(vm.folder.glob("*.qcow2")) == []
        assert [link for link in links(vm.pid) if link.endswith("overlay.qcow2 (deleted)")]

    def test_each_machine_of_a_kind_that_cannot_be_frozen_boots_and_gets_its_layers(
        self, lab: Lab, start: Start
    ) -> None:
        made.clear()
        for snapshot in ("temporary", "overlay"):
            vm = start(start="auto", disk_interface="nvme", layers=noted, snapshot=snapshot)
            assert made.pop() == vm.pid
            assert made == []
            assert (vm.overlay is not None and vm.overlay.exists()) == (snapshot == "overlay")
            boots_again_from_its_own_disk(vm)
        assert ["nvme" in boot.reason for boot in lab.boots] == [True, True]

    @pytest.mark.parametrize(
        ("settings", "reason"),
        [
            ({"disk_interface": "nvme"}, "State blocked by non-migratable device '.*nvme'"),
            (
                {"qemu_args": "-drive if=virtio,format=raw,snapshot=on,file=IMAGE"},
                "snapshot=on,file=.*: what the guest writes",
            ),
            ({"qemu_args": "-object memory-backend-ram,id=own,size=1M,share=on"}, "copies would share it"),
        ],
        ids=["nvme", "snapshot=on", "share=on"],
    )
    def test_who_insists_is_refused_and_nothing_is_left(
        self, start: Start, boot_sector: Callable[[str], Path], tmp_path: Path, settings: dict[str, str], reason: str
    ) -> None:
        if "qemu_args" in settings:
            settings = {"qemu_args": settings["qemu_args"].replace("IMAGE", str(boot_sector("hello")))}
        with pytest.raises(ConfigurationError, match=rf"replace\(start=…\): start=clone is not possible: .*{reason}"):
            start(**settings, tmpdir=tmp_path)
        assert list(tmp_path.glob("*/*/*")) == []
        if "qemu_args" in settings:
            vm = start(**settings, start="auto")
            boots_again_from_its_own_disk(vm)
            assert vm.manner == "boot"


class TestEveryMachine:
    @pytest.mark.parametrize(
        "settings",
        [
            {},
            {"machine": "pc", "disk_interface": "virtio", "snapshot": "overlay"},
            {"machine": "pc", "disk_interface": "scsi", "network": "none"},
            {"machine": "pc", "disk_interface": "sata", "channel": "none"},
            {"machine": "pc", "disk_interface": "ide", "channel": "agent"},
            {"machine": "pc", "disk_interface": "usb", "cpu_model": "qemu64"},
            {"machine": "q35", "disk_interface": "virtio", "cpus": 2},
            {"machine": "q35", "disk_interface": "scsi", "monitor": "on"},
            {"machine": "q35", "disk_interface": "sata", "seal": "off"},
            {"machine": "q35", "disk_interface": "usb"},
        ],
        ids=lambda settings: " ".join(map(str, settings.values())) or "default",
    )
    def test_it_is_cloned_and_so_is_its_disk(self, start: Start, settings: dict[str, object]) -> None:
        vm = start(**settings)
        assert vm.manner == "clone"
        boots_again_from_its_own_disk(vm)

    def test_one_without_a_disk_whose_memory_cannot_be_shared_is_copied_with_it(self, lab: Lab) -> None:
        memory = ("-object", "memory-backend-ram,id=m0,size=128M", "-numa", "node,memdev=m0")
        for _ in range(2):
            vm = tiny(lab, start="clone", image=None, cpus=2, qemu_args=memory)
            assert vm.run("[ ! -e /root/soiled ]; echo $?; touch /root/soiled; nproc").stdout == "0\n2\n"
            assert "mem-path=" not in vm.command_line
        assert [boot.manner for boot in lab.boots] == ["boot", "clone", "clone"]

    def test_one_that_dies_while_it_boots_died_however_it_was_to_start(self, start: Start, tmp_path: Path) -> None:
        said = set()
        for how in ("cold", "clone", "auto", "clone"):
            with pytest.raises(GuestDied) as caught:
                start("powers_off", ready="console:never", start=how, tmpdir=tmp_path)
            said.add(str(caught.value))
            assert list(tmp_path.glob("*/*/*")) == []
        assert len(said) == 1


class TestLayers:
    def test_an_error_in_one_is_the_callers_and_the_next_start_tries_again(
        self, lab: Lab, start: Start, tmp_path: Path
    ) -> None:
        made.clear()
        with pytest.raises(LookupError, match="no such package") as caught:
            start(layers=second_time_lucky, tmpdir=tmp_path)
        assert caught.traceback[-1].name == "second_time_lucky"
        assert list(tmp_path.glob("*/*/*")) == []
        assert not Path(f"/proc/{made[0]}").exists()
        for _ in range(2):
            start(layers=second_time_lucky, tmpdir=tmp_path).close()
        assert len(made) == 2
        assert [boot.manner for boot in lab.boots] == ["boot", "clone", "clone"]

    def test_one_that_ends_the_machine_is_told_as_that(self, start: Start, tmp_path: Path) -> None:
        with pytest.raises(GuestDied, match="SIGKILL"):
            start(layers=fatal, tmpdir=tmp_path)
        assert list(tmp_path.glob("*/*/*")) == []

    def test_one_cannot_make_another_machine_of_the_one_that_is_to_be_frozen(self, start: Start) -> None:
        with pytest.raises(VmError, match=r"reset\(\) is for a machine that is ready; this one is being made so"):
            start(layers=goes_back)


class TestNobodyChangesATemplate:
    def test_the_kernel_keeps_its_memory_as_it_is(self, start: Start) -> None:
        vm = start()
        found = [link for pid in (os.getpid(), vm.pid) for link in links(pid, "/memfd:guest-").values()]
        assert len(found) >= 3  # RAM and state, and what the clone still has of them
        for path in found:
            memory = os.open(path, os.O_RDWR)
            try:
                size = os.fstat(memory).st_size
                with pytest.raises(PermissionError):
                    os.pwrite(memory, b"x", 0)
                for other in (0, size - 4096, size + 4096):
                    with pytest.raises(PermissionError):
                        os.ftruncate(memory, max(other, 0))
                with pytest.raises(PermissionError):
                    mmap.mmap(memory, mmap.PAGESIZE)
            finally:
                os.close(memory)

    def test_clones_that_write_a_lot_do_not(self, lab: Lab) -> None:
        tiny(lab, start="clone").close()
        before = {
            link: digest(path) for link, path in links(os.getpid(), "/").items() if "guest-" in link or "qcow2" in link
        }
        assert len(before) >= 4  # base, disk, RAM, state
        for _ in range(2):
            vm = tiny(lab, start="clone")
            assert vm.run("ls /mnt /root").stdout == "/mnt:\nlost+found\n\n/root:\n"
            vm.run("for n in 1 2 3 4; do cp /bin/busybox /mnt/$n && cp /bin/busybox /root/$n; done; sync")
            vm.close()
        after = {link: digest(path) for link, path in links(os.getpid(), "/").items() if link in before}
        assert after == before

    @pytest.mark.parametrize("attack", ON_ITS_OWN_DISK, ids=lambda attack: attack.name)
    def test_not_by_the_disk_that_is_there(self, kept: tuple[Lab, VmConfig, Path], attack: Attack) -> None:
        assert_harmless(*kept, attack, "disk0")

    @pytest.mark.parametrize("attack", BY_NAME, ids=lambda attack: attack.name)
    def test_not_by_its_name(self, kept: tuple[Lab, VmConfig, Path], attack: Attack) -> None:
        assert_harmless(*kept, attack, "disk0", "ram", "state", "manifest.json")

    def test_nobody_adds_to_the_folder(self, kept: tuple[Lab, VmConfig, Path]) -> None:
        lab, config, folder = kept
        vm = lab.start(config, name="attacked")
        for place in (folder / "cache", next((folder / "cache").iterdir())):
            with pytest.raises(QmpError, match="Permission denied"):
                vm.qmp.execute("pmemsave", val=0x7C00, size=512, filename=str(place / "new"))
        vm.close()


def assert_harmless(lab: Lab, config: VmConfig, folder: Path, attack: Attack, *names: str) -> None:
    """Clones whose monitors are used to attack a template's files leave all as they were, and the next one is sound."""
    [template] = (folder / "cache").iterdir()
    before = {path: digest(path) for path in folder.rglob("*") if path.is_file()}
    for name in names:
        vm = lab.start(config, name="attacked")
        attack(vm, template / name)
        vm.close()
    assert {path: digest(path) for path in folder.rglob("*") if path.is_file()} == before
    vm = lab.start(config, name="after")
    boots_again_from_its_own_disk(vm)
    vm.close()
    assert {boot.manner for boot in lab.boots} == {"clone"}


def links(pid: int, beginning: str = "/") -> dict[str, Path]:
    """The files that a process has open whose names begin so, each by the link to it in ``/proc``."""
    found = {path.readlink(): path for path in Path(f"/proc/{pid}/fd").iterdir() if path.is_symlink()}
    return {str(target): path for target, path in found.items() if str(target).startswith(beginning)}


def digest(path: Path) -> tuple[str, int, int]:
    """The content of a file, and what tells that another has come in its place."""
    found = path.stat()
    return hashlib.sha256(path.read_bytes()).hexdigest(), found.st_ino, found.st_mtime_ns
