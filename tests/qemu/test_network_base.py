"""A base image that stays on the network: what machines can do with it, and what is said when its server cannot."""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_readonly_vm import (
    BaseImageChanged,
    BaseImageLost,
    CommandTimeout,
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
from tests.conftest import READY, SMALL
from tests.forked import PLAIN
from tests.guests import bootsector
from tests.guests.tiny_linux import tiny_linux
from tests.nbd import Nbdkit
from tests.qemu.image_tools import run
from tests.qemu.test_templates import tiny
from tests.qemu.waiting import GENEROUS
from tests.web_server import Fault, Site, site

MIB = 1 << 20
TIMEOUT = 2.0
"""Seconds that a server has in tests of what becomes of one that does not answer."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def raw(folder: Path) -> Path:
    """The disk of the tiny guest with marks where nothing is, 4 MiB apart."""
    path = folder / "tiny.raw"
    run("qemu-img", "convert", "-O", "raw", str(tiny_linux().disk), str(path))
    size = path.stat().st_size
    with path.open("ab") as file:
        for number in range(8):
            file.write(f"mark {number}\n".encode().ljust(4 * MIB, b"."))
    assert path.stat().st_size == size + 32 * MIB
    return path


@pytest.fixture(scope="module")
def server(folder: Path, raw: Path) -> Iterator[Nbdkit]:
    with Nbdkit(folder / "nbd.sock", raw) as running:
        yield running


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


@layer
def noted(vm: VirtualMachine) -> None:
    vm.run("echo layer | dd of=/dev/vda bs=512 seek=2000 conv=sync,notrunc && sync")


def mark(vm: VirtualMachine, number: int) -> str:
    """What stands in the disk there, read from it and not from the guest's memory."""
    place = f"/dev/vda iflag=direct bs=512 count=1 skip={(64 * MIB + number * 4 * MIB) // 512}"
    return vm.run(f"dd if={place} 2>/dev/null | head -n 1", timeout=GENEROUS).stdout.strip()


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
        content = (tmp_path / "all.raw").read_bytes()
        assert content[64 * MIB :] == raw.read_bytes()[64 * MIB :]
        assert content[2000 * 512 :][:6] == b"layer\n"

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


@pytest.fixture(scope="module")
def runs() -> Iterator[Lab]:
    """A lab for machines whose server fails."""
    with Lab() as lab:
        yield lab


@pytest.fixture(scope="module")
def own(folder: Path, raw: Path) -> Iterator[Nbdkit]:
    """The server that does."""
    with Nbdkit(folder / "own.sock", raw) as running:
        yield running


def test_one_that_refuses_is_named_while_a_machine_is_made(runs: Lab, raw: Path, tmp_path: Path) -> None:
    trigger = tmp_path / "trigger"
    arguments = ("error-pread=EIO", "error-pread-rate=100%", f"error-pread-file={trigger}")
    with Nbdkit(tmp_path / "nbd.sock", raw, options=("--filter=error",), arguments=arguments) as server:

        def ready(vm: VirtualMachine) -> bool:
            trigger.touch()
            return mark(vm, 4) == "mark 4"

        with pytest.raises(BaseImageLost, match=rf"refuses to read: Input/output error \(tried for {TIMEOUT:g} s\)"):
            tiny(runs, image=server.url, start="clone", ready=ready, image_timeout=TIMEOUT)


class TestAServerThatFails:
    """Each of the tests leaves it as it has found it."""

    @pytest.fixture
    def vm(self, runs: Lab, own: Nbdkit) -> Iterator[VirtualMachine]:
        vm = tiny(runs, image=own.url, start="clone", image_timeout=TIMEOUT)
        yield vm
        vm.close()

    def test_one_that_stalls_is_named_and_may_come_back(self, runs: Lab, own: Nbdkit, vm: VirtualMachine) -> None:
        own.stall()
        try:
            lost = rf"^guest: the base image nbd\+unix:///\S+ has had no answer from its server for {TIMEOUT:g} s\n"
            with pytest.raises(BaseImageLost, match=lost):
                mark(vm, 1)
            with pytest.raises(BaseImageLost, match="whether it is what it was while a test ran cannot be told"):
                runs.check_bases(during="a test")
            with pytest.raises(BaseImageLost, match="has had no answer"):
                tiny(runs, image=own.url, start="clone", image_timeout=TIMEOUT)
        finally:
            own.go_on()
        again = tiny(runs, image=own.url, start="clone", image_timeout=TIMEOUT)
        assert mark(again, 1) == "mark 1"
        assert runs.check_bases(during="a test")
        again.close()

    def test_a_shorter_wait_has_the_cause(self, own: Nbdkit, vm: VirtualMachine) -> None:
        own.stall()
        try:
            with pytest.raises((CommandTimeout, BaseImageLost)):
                vm.run("dd if=/dev/vda iflag=direct bs=512 count=1 skip=163840", timeout=1.2)
            told = vm.instance.base_lines.waiting() or [str(vm.instance.base_lines.error())]
            assert "the base image nbd+unix:///" in told[0]
        finally:
            own.go_on()

    def test_one_that_is_gone_is_named(self, own: Nbdkit, vm: VirtualMachine) -> None:
        own.vanish()
        try:
            with pytest.raises(BaseImageLost, match=rf"cannot be connected to: \S.* \(tried for {TIMEOUT:g} s\)"):
                mark(vm, 6)
        finally:
            own.start()

    def test_one_that_restarts_in_time_is_no_error(self, own: Nbdkit, vm: VirtualMachine) -> None:
        own.vanish()
        own.start()
        assert mark(vm, 7) == "mark 7"

    def test_one_that_comes_back_with_another_disk_is_refused(
        self, runs: Lab, own: Nbdkit, vm: VirtualMachine, tmp_path: Path
    ) -> None:
        own.vanish()
        content = own.file
        own.file = Path(shutil.copy(content, tmp_path / "other.raw"))
        with own.file.open("r+b") as file:
            file.write(b"another".ljust(512))
        own.start()
        with pytest.raises(BaseImageChanged, match="it has other bytes at 0 than it had"):
            mark(vm, 5)
        with pytest.raises(BaseImageChanged, match="it has other bytes at 0 than it had while a test ran"):
            runs.check_bases(during="a test")


def test_a_run_goes_on_when_its_server_does(pytester: pytest.Pytester, boot_sector: Callable[[str], Path]) -> None:
    with Nbdkit(pytester.path / "nbd.sock", boot_sector("hello")) as server:
        pytester.path.joinpath("vm-images.toml").write_text(f'[farm]\nurl = "{server.url}"\n')
        pytester.makepyfile(
            f"""
            import os, pytest, signal
            @pytest.fixture
            def server():
                return lambda number: os.kill({server.pid}, number)
            def test_one(readonly_vm, server): server(signal.SIGSTOP)
            def test_two(readonly_vm): pass
            def test_three(server): server(signal.SIGCONT)
            def test_four(readonly_vm): pass
            """
        )
        options = ("--vm-image=farm", *SMALL, "--vm-no-cache", "--vm-image-timeout=1", "-rA")
        result = pytester.runpytest_subprocess(*options, *PLAIN)
    result.assert_outcomes(passed=3, errors=2)
    result.stdout.fnmatch_lines_random(
        [
            "vm: base farm, nbd+unix:///*",
            f"base {server.url} unchanged after * (size, what its server tells, and parts of it)",
            "ERROR *::test_one - BaseImageLost: *",
            "ERROR *::test_two - BaseImageLost: *",
            "PASSED *::test_four",
        ]
    )


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


class TestAWebServer:
    @pytest.fixture
    def server(self) -> Iterator[Site]:
        with site() as running:
            yield running

    @pytest.fixture
    def web_lab(self) -> Iterator[Lab]:
        with Lab() as lab:
            yield lab

    def test_an_image_that_changes_while_it_is_read_is_never_two(self, web_lab: Lab, server: Site, raw: Path) -> None:
        url = server.put("disk.raw", raw.read_bytes())
        secret = f"ranges+{url.replace('://', '://me:pass@')}?signature=S3CRET#insecure"
        vm = tiny(web_lab, image=secret, start="cold")
        assert mark(vm, 1) == "mark 1"
        server.files["/disk.raw"].etag = '"other"'
        changed = (
            r"^guest: the base image ranges\+http://[^?@]+\?… is another file by now: its ETag is not \S+ any more\n"
        )
        with pytest.raises(BaseImageChanged, match=changed):
            mark(vm, 2)
        vm.close()
        with pytest.raises(BaseImageChanged, match=r"no longer what it was: .* while a test ran$"):
            web_lab.check_bases(during="a test")
        with pytest.raises(BaseImageChanged, match="is not used any more"):
            tiny(web_lab, image=secret, start="cold")
        assert not any("pass" in word or "S3CRET" in word for word in vm.instance.process.argv)

    @pytest.mark.parametrize(
        "fault",
        [Fault(cut=100), Fault(status=503), Fault(no_range=True), Fault(drip=0.5), Fault(stall=100)],
        ids=["cut", "503", "no ranges", "drips", "stalls"],
    )
    def test_a_fault_in_the_middle_is_named_or_passes(
        self, server: Site, boot: Callable[..., VirtualMachine], fault: Fault, tmp_path: Path
    ) -> None:
        image = bootsector.write_image(tmp_path / "disk.img", bootsector.obeys(READY), size=4 * MIB)
        url = server.put("disk.img", image.read_bytes())
        vm = boot(f"ranges+{url}#insecure", image_timeout=TIMEOUT)
        faults = server.files["/disk.img"].faults
        faults += [fault] * 50
        file = vm.instance.spec.chain[0]
        if fault.cut or fault.status:
            faults.clear()
            faults.append(fault)
            assert file.read(2 * MIB, 512) == image.read_bytes()[2 * MIB :][:512]
        else:
            with pytest.raises(BaseImageLost, match="base image ranges"):
                file.read(2 * MIB, 512)
            assert isinstance(vm.instance.base_lines.error(), VmError)
