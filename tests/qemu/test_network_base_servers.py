"""A base image whose server stalls, goes, comes back, or has another by then: what is said, and that it is said."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_readonly_vm import (
    BaseImageChanged,
    BaseImageLost,
    CommandTimeout,
    Lab,
    VirtualMachine,
    VmError,
)
from tests.conftest import READY, SMALL
from tests.forked import PLAIN
from tests.guests import bootsector
from tests.nbd import Nbdkit
from tests.qemu.marked_disk import MIB, mark, marked_disk
from tests.qemu.test_templates import tiny
from tests.qemu.waiting import eventually
from tests.web_server import Fault, Site, site

TIMEOUT = 2.0
"""Seconds that a server has to answer."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def raw(folder: Path) -> Path:
    return marked_disk(folder / "tiny.raw")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


@pytest.fixture(scope="module")
def server(folder: Path, raw: Path) -> Iterator[Nbdkit]:
    with Nbdkit(folder / "nbd.sock", raw) as running:
        yield running


def test_one_that_refuses_is_named_while_a_machine_is_made(lab: Lab, raw: Path, tmp_path: Path) -> None:
    trigger = tmp_path / "trigger"
    arguments = ("error-pread=EIO", "error-pread-rate=100%", f"error-pread-file={trigger}")
    with Nbdkit(tmp_path / "nbd.sock", raw, options=("--filter=error",), arguments=arguments) as server:

        def ready(vm: VirtualMachine) -> bool:
            trigger.touch()
            return mark(vm, 4) == "mark 4"

        with pytest.raises(BaseImageLost, match=rf"refuses to read: Input/output error \(tried for {TIMEOUT:g} s\)"):
            tiny(lab, image=server.url, start="clone", ready=ready, image_timeout=TIMEOUT)


class TestAServerThatFails:
    """Each of the tests leaves it as it has found it."""

    @pytest.fixture
    def vm(self, lab: Lab, server: Nbdkit) -> Iterator[VirtualMachine]:
        vm = tiny(lab, image=server.url, start="clone", image_timeout=TIMEOUT)
        yield vm
        vm.close()

    def test_one_that_stalls_is_named_and_may_come_back(self, lab: Lab, server: Nbdkit, vm: VirtualMachine) -> None:
        server.stall()
        try:
            lost = rf"^guest: the base image nbd\+unix:///\S+ has had no answer from its server for {TIMEOUT:g} s\n"
            with pytest.raises(BaseImageLost, match=lost):
                mark(vm, 1)
            with pytest.raises(BaseImageLost, match="whether it is what it was while a test ran cannot be told"):
                lab.check_bases(during="a test")
            with pytest.raises(BaseImageLost, match="has had no answer"):
                tiny(lab, image=server.url, start="clone", image_timeout=TIMEOUT)
        finally:
            server.go_on()
        again = tiny(lab, image=server.url, start="clone", image_timeout=TIMEOUT)
        assert mark(again, 1) == "mark 1"
        assert lab.check_bases(during="a test")
        again.close()

    def test_a_shorter_wait_has_the_cause(self, server: Nbdkit, vm: VirtualMachine) -> None:
        server.stall()
        try:
            with pytest.raises((CommandTimeout, BaseImageLost)):
                vm.run("dd if=/dev/vda iflag=direct bs=512 count=1 skip=163840", timeout=1.2)
            lines = vm.instance.base_lines
            # On a busy computer the guest asked for it when the command's time was all but over.
            told = eventually(lambda: lines.waiting() or lines.error(), "the cause is told")
            assert "the base image nbd+unix:///" in str(told)
        finally:
            server.go_on()

    def test_one_that_is_gone_is_named(self, server: Nbdkit, vm: VirtualMachine) -> None:
        server.vanish()
        try:
            with pytest.raises(BaseImageLost, match=rf"cannot be connected to: \S.* \(tried for {TIMEOUT:g} s\)"):
                mark(vm, 6)
        finally:
            server.start()

    def test_one_that_restarts_in_time_is_no_error(self, server: Nbdkit, vm: VirtualMachine) -> None:
        server.vanish()
        server.start()
        assert mark(vm, 7) == "mark 7"

    def test_one_that_comes_back_with_another_disk_is_refused(
        self, lab: Lab, server: Nbdkit, vm: VirtualMachine, tmp_path: Path
    ) -> None:
        server.vanish()
        content = server.file
        server.file = Path(shutil.copy(content, tmp_path / "other.raw"))
        with server.file.open("r+b") as file:
            file.write(b"another".ljust(512))
        server.start()
        with pytest.raises(BaseImageChanged, match="it has other bytes at 0 than it had"):
            mark(vm, 5)
        with pytest.raises(BaseImageChanged, match="it has other bytes at 0 than it had while a test ran"):
            lab.check_bases(during="a test")


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


class TestAWebServer:
    @pytest.fixture
    def server(self) -> Iterator[Site]:
        with site() as running:
            yield running

    @pytest.fixture
    def own_lab(self) -> Iterator[Lab]:
        with Lab() as lab:
            yield lab

    def test_an_image_that_changes_while_it_is_read_is_never_two(self, own_lab: Lab, server: Site, raw: Path) -> None:
        url = server.put("disk.raw", raw.read_bytes())
        secret = f"ranges+{url.replace('://', '://me:pass@')}?signature=S3CRET#insecure"
        vm = tiny(own_lab, image=secret, start="cold")
        assert mark(vm, 1) == "mark 1"
        server.files["/disk.raw"].etag = '"other"'
        changed = (
            r"^guest: the base image ranges\+http://[^?@]+\?… is another file by now: its ETag is not \S+ any more\n"
        )
        with pytest.raises(BaseImageChanged, match=changed):
            mark(vm, 2)
        vm.close()
        with pytest.raises(BaseImageChanged, match=r"no longer what it was: .* while a test ran$"):
            own_lab.check_bases(during="a test")
        with pytest.raises(BaseImageChanged, match="is not used any more"):
            tiny(own_lab, image=secret, start="cold")
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
