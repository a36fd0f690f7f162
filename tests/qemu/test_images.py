"""What QEMU can read boots, whatever its format, its layers and its name, and is the same afterwards."""

import gzip
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_readonly_vm import VirtualMachine
from tests.conftest import SMALL
from tests.guests import bootsector
from tests.qemu.image_tools import data_sector, info, layer, writer_image
from tests.qemu.junit import read_problems

WRITTEN = "console:^written"
"""The guest `writer` is ready when it has overwritten a sector of its disk and read it back."""

ODD_NAMES = (
    "with space", "a,b", "a:b", "nbd:localhost:1", "json:{}", '"double"', "'single'", "naïve…漢字😀", "-dash", "100%",
    "back\\slash", "new\nline", "$HOME", "a=b,snapshot=off", "#hash",
)  # fmt: skip


@pytest.fixture
def digests(tmp_path: Path) -> Callable[[], dict[str, str]]:
    """The SHA-256 of every file in the test's folder."""
    return lambda: {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.glob("*.*")}


def sees_its_own_writes_only(machine: VirtualMachine) -> None:
    """The guest `writer` found a new disk, and what it wrote is there for it."""
    assert "sector=pristine" in machine.console.text
    assert "error" not in machine.console.text
    machine.close()


@pytest.mark.parametrize("snapshot", ["temporary", "overlay"])
@pytest.mark.parametrize("format", ["qcow2", "raw", "qed", "vmdk", "vdi", "vhdx", "vpc"])
def test_every_format_boots_and_stays_as_it_is(
    tmp_path: Path,
    boot: Callable[..., VirtualMachine],
    digests: Callable[[], dict[str, str]],
    format: str,
    snapshot: str,
) -> None:
    image = writer_image(tmp_path / f"disk.{format}", format)
    before = digests()
    for _ in range(2):
        sees_its_own_writes_only(boot(image, ready=WRITTEN, snapshot=snapshot))
    assert digests() == before


@pytest.mark.parametrize(
    ("format", "option"),
    [
        ("qcow2", "compat=0.10"),
        ("qcow2", "cluster_size=512"),
        ("qcow2", "extended_l2=on"),
        ("vmdk", "subformat=streamOptimized"),
        ("vdi", "static=on"),
        ("vhdx", "subformat=fixed"),
        ("vpc", "subformat=fixed"),
    ],
)
def test_variants_of_formats_boot(
    tmp_path: Path, boot: Callable[..., VirtualMachine], format: str, option: str
) -> None:
    sees_its_own_writes_only(boot(writer_image(tmp_path / f"disk.{format}", format, option), ready=WRITTEN))


@pytest.mark.parametrize("snapshot", ["temporary", "overlay"])
def test_a_chain_of_two_boots(
    tmp_path: Path, boot: Callable[..., VirtualMachine], digests: Callable[[], dict[str, str]], snapshot: str
) -> None:
    writer_image(tmp_path / "base.img")
    top = layer(tmp_path / "top.qcow2", "qcow2", tmp_path / "base.img", "raw")
    before = digests()
    sees_its_own_writes_only(boot(top, ready=WRITTEN, snapshot=snapshot))
    assert digests() == before


@pytest.mark.parametrize("snapshot", ["temporary", "overlay"])
def test_a_chain_of_five_formats_with_relative_names_boots(
    tmp_path: Path, boot: Callable[..., VirtualMachine], digests: Callable[[], dict[str, str]], snapshot: str
) -> None:
    writer_image(tmp_path / "base.vdi", "vdi")
    layer(tmp_path / "second.qcow2", "qcow2", "base.vdi", "vdi")
    layer(tmp_path / "third.qed", "qed", "second.qcow2", "qcow2")
    layer(tmp_path / "fourth.qcow2", "qcow2", "third.qed", "qed")
    top = layer(tmp_path / "top.qcow2", "qcow2", "./fourth.qcow2", "qcow2")
    before = digests()
    assert len(before) == 5
    sees_its_own_writes_only(boot(top, ready=WRITTEN, snapshot=snapshot))
    assert digests() == before


def test_the_path_may_be_relative_and_a_symbolic_link(
    tmp_path: Path, boot: Callable[..., VirtualMachine], monkeypatch: pytest.MonkeyPatch
) -> None:
    writer_image(tmp_path / "disk.qcow2", "qcow2")
    (tmp_path / "link").symlink_to("disk.qcow2")
    monkeypatch.chdir(tmp_path)
    sees_its_own_writes_only(boot(Path("link"), ready=WRITTEN))


@pytest.mark.parametrize("snapshot", ["temporary", "overlay"])
@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_are_names(tmp_path: Path, boot: Callable[..., VirtualMachine], name: str, snapshot: str) -> None:
    base = writer_image(tmp_path / f"{name}.img")
    top = layer(tmp_path / f"{name}.qcow2", "qcow2", base, "raw")
    sees_its_own_writes_only(boot(top, ready=WRITTEN, snapshot=snapshot))


def test_names_that_are_no_utf8_are_names_too(tmp_path: Path, boot: Callable[..., VirtualMachine]) -> None:
    image = writer_image(tmp_path / os.fsdecode(b"caf\xe9.img"))
    sees_its_own_writes_only(boot(image, ready=WRITTEN))


@pytest.mark.parametrize("interface", ["virtio", "scsi", "sata", "ide", "nvme", "usb"])
def test_every_disk_interface_boots_and_writes(
    tmp_path: Path, boot: Callable[..., VirtualMachine], interface: str
) -> None:
    image = writer_image(tmp_path / "disk.qcow2", "qcow2")
    sees_its_own_writes_only(boot(image, ready=WRITTEN, disk_interface=interface))


class TestKeptOverlays:
    @pytest.fixture
    def image(self, tmp_path: Path) -> Path:
        return writer_image(tmp_path / "disk.qcow2", "qcow2")

    @pytest.fixture
    def run(self, pytester: pytest.Pytester, image: Path) -> Callable[..., pytest.RunResult]:
        # The guest has no driver for a power button, so the tests end it themselves.
        pytester.makepyfile(
            test_keep="""
            def test_pass(readonly_vm):
                readonly_vm.qmp.execute("quit")

            def test_fail(readonly_vm):
                readonly_vm.qmp.execute("quit")
                assert False
            """
        )

        def run(*arguments: str, base: Path = image) -> pytest.RunResult:
            options = [f"--vm-image={base}", *SMALL, f"--vm-ready={WRITTEN}", "-p", "no:cacheprovider", *arguments]
            return pytester.runpytest_subprocess(*options)

        return run

    def test_always_has_what_every_guest_wrote_on_top_of_the_base(
        self, pytester: pytest.Pytester, image: Path, run: Callable[..., pytest.RunResult]
    ) -> None:
        before = image.read_bytes()
        result = run("--vm-snapshot=overlay", "--vm-keep=always")
        result.assert_outcomes(passed=1, failed=1)
        overlays = sorted((pytester.path / "test-results").rglob("*.qcow2"))
        assert [path.parent.name.split(".py-")[0] for path in overlays] == ["test_keep", "test_keep"]
        for overlay in overlays:
            assert info(overlay)["format"] == "qcow2"
            assert info(overlay)["full-backing-filename"] == str(image)
            assert info(overlay)["backing-filename-format"] == "qcow2"
            assert data_sector(overlay) == bootsector.MODIFIED
            result.stdout.fnmatch_lines([f"kept overlay {overlay} (boot it again: pytest --vm-image={overlay})"])
        assert image.read_bytes() == before
        assert data_sector(image) == bootsector.PRISTINE

    def test_a_base_in_the_store_is_told_of(
        self, tmp_path: Path, image: Path, run: Callable[..., pytest.RunResult]
    ) -> None:
        packed = tmp_path / "disk.qcow2.gz"
        packed.write_bytes(gzip.compress(image.read_bytes()))
        options = ("--vm-snapshot=overlay", "--vm-keep=on-failure", f"--vm-image-store={tmp_path / 'store'}")
        result = run(*options, base=packed)
        result.stdout.fnmatch_lines(
            ["kept overlay */overlay.qcow2 (boot*", "*its base is in the store of images; when that is gone, *"]
        )

    def test_on_failure_has_the_failed_only(
        self, pytester: pytest.Pytester, run: Callable[..., pytest.RunResult]
    ) -> None:
        run("--vm-snapshot=overlay", "--vm-keep=on-failure", "--vm-output=kept").assert_outcomes(passed=1, failed=1)
        [overlay] = (pytester.path / "kept").rglob("*.qcow2")
        assert "test_fail" in overlay.parent.name
        assert data_sector(overlay) == bootsector.MODIFIED

    def test_never_has_nothing(self, pytester: pytest.Pytester, run: Callable[..., pytest.RunResult]) -> None:
        run("--vm-snapshot=overlay").assert_outcomes(passed=1, failed=1)
        assert not list((pytester.path / "test-results").rglob("*.qcow2"))

    def test_a_kept_overlay_is_a_base_for_another_run(
        self, pytester: pytest.Pytester, run: Callable[..., pytest.RunResult]
    ) -> None:
        run("--vm-snapshot=overlay", "--vm-keep=on-failure", "--vm-output=kept", "-k", "fail")
        [overlay] = (pytester.path / "kept").rglob("*.qcow2")
        result = run("-k", "fail", base=overlay)
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["*(qcow2, a chain of 2 files, from --vm-image)"])
        [console] = (pytester.path / "test-results").rglob("console.txt")
        assert "sector=modified" in console.read_text()


CHANGES = {
    "written": ("path.open('r+b').write(b'x')", "was written"),
    "written with its times set back": (
        "found = path.stat(); path.open('r+b').write(b'x'); os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))",
        "was changed (its mtime is what it was, but its ctime is not)",
    ),
    "truncated": ("os.truncate(path, 512)", "changed its size from 1048576 to 512 bytes"),
    "grown": ("os.truncate(path, 1 << 21)", "changed its size from 1048576 to 2097152 bytes"),
    "replaced": (
        "other = path.with_name('new'); shutil.copy2(path, other); other.rename(path)",
        "was replaced by another file",
    ),
    "deleted": ("path.unlink()", "can no longer be found (No such file or directory)"),
}
"""What a test does to the base by itself, and what is said of it."""


def test_a_change_of_the_base_during_a_run_fails_the_test_that_ran(pytester: pytest.Pytester) -> None:
    for number in range(len(CHANGES)):
        writer_image(pytester.path / f"{number}.img")
        layer(pytester.path / f"{number}.qcow2", "qcow2", f"{number}.img", "raw")
    pytester.makepyfile(
        test_change=f"""
        import os
        import shutil
        from pathlib import Path

        import pytest

        NUMBERS = range({len(CHANGES)})
        CHANGES = {[program for program, _ in CHANGES.values()]}

        @pytest.fixture(params=["img", "qcow2"])
        def vm_image(request, number):
            return f"{{number}}.{{request.param}}"

        @pytest.mark.parametrize("number", NUMBERS)
        def test_before(number, readonly_vm):
            pass

        @pytest.mark.parametrize("number", NUMBERS)
        def test_change(number, readonly_vm):
            path = Path(f"{{number}}.img").absolute()
            exec(CHANGES[number])

        @pytest.mark.parametrize("number", NUMBERS)
        def test_after(number, readonly_vm):
            pass
        """
    )
    pytester.runpytest_subprocess(*SMALL, "-p", "no:cacheprovider", "--junitxml=report.xml")
    problems = read_problems(pytester.path / "report.xml")
    for number, (_, finding) in enumerate(CHANGES.values()):
        # The image is used as a base of its own and as a backing file; the first of the tests is who changes it.
        problem = problems.pop(f"test_change[img-{number}]")
        assert "BaseImageChanged: the base image is no longer what it was" in problem
        assert f"{number}.img {finding}" in problem
        for later in (f"test_change[qcow2-{number}]", f"test_after[img-{number}]", f"test_after[qcow2-{number}]"):
            refusal = problems.pop(later)
            assert "is not used any more" in refusal or "No such file" in refusal
            assert f"while test_change.py::test_change[img-{number}] ran" in refusal or "No such file" in refusal
    assert problems == {}
