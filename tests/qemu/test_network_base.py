"""A base image that stays on the network: what machines can do with it, and what is kept of it."""

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_readonly_vm import (
    ConfigurationError,
    Disk,
    ImageWarning,
    Lab,
    RecordingError,
    VirtualMachine,
    VmConfig,
    VmError,
    layer,
)
from pytest_readonly_vm.evidence.capsule.opened import open_capsule
from pytest_readonly_vm.evidence.capsule.resume import resume_capsule
from pytest_readonly_vm.evidence.capsule.save import save_capsule
from tests.accelerator import ACCEL
from tests.conftest import READY
from tests.guests import bootsector
from tests.nbd import Nbdkit
from tests.qemu.marked_disk import MIB, mark, marked_disk
from tests.qemu.test_templates import tiny
from tests.qemu.waiting import GENEROUS
from tests.web_server import site


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def raw(folder: Path) -> Path:
    return marked_disk(folder / "tiny.raw")


@pytest.fixture(scope="module")
def server(folder: Path, raw: Path) -> Iterator[Nbdkit]:
    with Nbdkit(folder / "nbd.sock", raw) as running:
        yield running


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


LAYER = 92 * MIB + 512
"""Behind the file system, which its kernel may be writing to at any time."""


@layer
def noted(vm: VirtualMachine) -> None:
    vm.run(f"echo layer | dd of=/dev/vda bs=512 seek={LAYER // 512} conv=sync,notrunc && sync")


class TestAnNbdExport:
    """Machines of one lab, which have one template."""

    @pytest.fixture
    def vm(self, lab: Lab, server: Nbdkit) -> Iterator[VirtualMachine]:
        vm = tiny(lab, image=server.url, start="clone", layers=noted)
        yield vm
        vm.close()

    def test_machines_are_frozen_copied_and_set_back_and_nothing_is_written(
        self, lab: Lab, vm: VirtualMachine, raw: Path
    ) -> None:
        before = hashlib.sha256(raw.read_bytes()).digest()
        assert (vm.manner, mark(vm, 1)) == ("clone", "mark 1")
        change = "echo changed | dd of=/dev/vda bs=512 seek=139264 conv=sync,notrunc; sync"
        with vm.checkpoint() as moment:
            vm.run(change)
            with vm.fork() as (fork,):
                assert (mark(fork, 1), mark(fork, 2)) == ("changed", "mark 2")
            vm.restore(moment)
        assert mark(vm, 1) == "mark 1"
        vm.run(change)
        vm.reset()
        assert mark(vm, 1) == "mark 1"
        assert [str(one) for one in lab.check_bases(during="a test")] == [str(vm.config.image)]
        assert hashlib.sha256(raw.read_bytes()).digest() == before

    def test_an_export_has_all_of_the_disk(self, vm: VirtualMachine, raw: Path, tmp_path: Path) -> None:
        vm.disk.export(tmp_path / "all.raw", format="raw", timeout=GENEROUS)
        expected = bytearray(raw.read_bytes())
        expected[LAYER : LAYER + 512] = b"layer\n".ljust(512, b"\0")
        assert (tmp_path / "all.raw").read_bytes()[64 * MIB :] == expected[64 * MIB :]

    def test_what_has_changed_is_told_from_inside(self, vm: VirtualMachine) -> None:
        vm.run("mkdir -p /mnt/it && mount /dev/vda /mnt/it")
        with vm.checkpoint() as moment:
            vm.run("echo new >/mnt/it/new")
            changes = vm.diff(since=moment)
            assert ("/mnt/it/new" in changes.made, changes.looked_at["/mnt/it"]) == (True, "inside")

    def test_it_is_not_recorded(self, vm: VirtualMachine) -> None:
        with pytest.raises(RecordingError, match="its image is on the network"), vm.disk.record():
            pass

    def test_its_capsule_goes_on_elsewhere(
        self, lab: Lab, vm: VirtualMachine, server: Nbdkit, raw: Path, tmp_path: Path
    ) -> None:
        save_capsule(vm, tmp_path / "it.vmcapsule", timeout=GENEROUS)
        shutil.copy(raw, tmp_path / "here.raw")
        with (
            open_capsule(tmp_path / "it.vmcapsule") as opened,
            pytest.raises(VmError, match="nobody is asked whom a capsule names, so name it with --image=URL"),
        ):
            resume_capsule(lab, opened)
        url = VmConfig().replace(image=server.url).image
        for image in (tmp_path / "here.raw", url):
            with open_capsule(tmp_path / "it.vmcapsule") as opened:
                assert mark(resume_capsule(lab, opened, image=image), 3) == "mark 3"


def test_disks_are_had_from_servers_as_well(lab: Lab, server: Nbdkit) -> None:
    vm = tiny(lab, disks=Disk("more", image=server.url), start="cold")
    path = vm.disks["more"].guest_path()
    assert vm.run(f"dd if={path} bs=1M skip=64 count=1 2>/dev/null | head -n 1").stdout == "mark 0\n"


def test_no_overlay_is_kept_above_what_is_elsewhere(lab: Lab, server: Nbdkit) -> None:
    with pytest.raises(ConfigurationError, match=r"keep=always needs a base that is a file of this computer"):
        tiny(lab, image=server.url, snapshot="overlay", keep="always")


class TestTemplatesAreKeptForLaterRuns:
    @pytest.fixture
    def image(self, tmp_path: Path) -> Path:
        return bootsector.write_image(tmp_path / "disk.img", bootsector.writer(READY))

    def starts(self, url: str, cache: Path) -> list[str]:
        """How the machines of two runs came to be; each is told from the other's writes."""
        config = VmConfig().replace(
            image=url,
            memory="16M",
            accel=ACCEL,
            ready="console:^written",
            start="clone",
            channel="none",
            cache=cache,
            boot_timeout=GENEROUS,
        )
        found = []
        for _ in range(2):
            with Lab() as lab:
                vm = lab.start(config, name="guest")
                assert "sector=pristine" in vm.console.text
                found.append(" ".join(boot.manner for boot in lab.boots))
        return found

    def test_not_where_nothing_tells_a_change(self, image: Path, tmp_path: Path) -> None:
        with Nbdkit(tmp_path / "nbd.sock", image) as server:
            assert self.starts(server.url, tmp_path / "cache") == ["boot clone"] * 2
        assert not list((tmp_path / "cache").glob("*/manifest.json"))

    def test_where_a_digest_says_what_it_is(self, image: Path, tmp_path: Path) -> None:
        digest = hashlib.sha256(image.read_bytes()).hexdigest()
        with (
            Nbdkit(tmp_path / "nbd.sock", image, options=("--filter=error",), arguments=("error-rate=0",)) as server,
            pytest.warns(ImageWarning, match="is believed: its server tells no sha256; --vm-verify=hash reads all"),
        ):
            assert self.starts(f"{server.url}#sha256={digest}", tmp_path / "cache") == ["boot clone", "clone"]

    def test_where_a_web_server_tells_of_changes(self, image: Path, tmp_path: Path) -> None:
        with site() as server:
            url = f"ranges+{server.put('disk.img', image.read_bytes())}#insecure"
            assert self.starts(url, tmp_path / "cache") == ["boot clone", "clone"]
            server.put("disk.img", image.read_bytes().replace(READY.encode(), b"HELLO"))
            assert self.starts(url, tmp_path / "cache") == ["boot clone", "clone"]
