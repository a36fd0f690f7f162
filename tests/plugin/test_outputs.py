"""Where a run is told to write: never over what it runs on, nor over what is not its own; refused before it begins."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import SMALL
from tests.forked import PLAIN
from tests.qemu.image_tools import layer, writer_image

OTHERS = "it is a file that is there already, and no page of an earlier run; nothing was written; choose another path"


@pytest.fixture
def refused(pytester: pytest.Pytester) -> Callable[..., None]:
    """Check that a run ends with a sentence before it collects anything, and that a file is as it was."""

    def check(file: Path, sentence: str, *options: str) -> None:
        before = file.read_bytes(), file.stat().st_ino, file.stat().st_ctime_ns
        result = pytester.runpytest_subprocess(*PLAIN, *options)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([f"ERROR: {sentence}"])
        assert "INTERNALERROR" not in result.stderr.str() + result.stdout.str()
        assert (file.read_bytes(), file.stat().st_ino, file.stat().st_ctime_ns) == before

    return check


@pytest.fixture
def image(pytester: pytest.Pytester) -> Path:
    below = writer_image(pytester.path / "below.img")
    return layer(pytester.path / "base.qcow2", "qcow2", below, "raw")


def test_a_page_in_the_place_of_an_image(
    pytester: pytest.Pytester, image: Path, refused: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile("def test_it(readonly_vm): pass")
    (pytester.path / "link.html").symlink_to(image)
    choose = "nothing was written; choose another path"
    refused(
        image, f"--vm-report: {pytester.path}/link.html: it is the base image; {choose}",
        "--vm-image=base.qcow2", "--vm-report=link.html", "-n", "2",
    )  # fmt: skip
    monkeypatch.setenv("PYTEST_VM_REPORT", "./../" + pytester.path.name + "/below.img")
    (pytester.path / "empty.img").touch()
    refused(
        pytester.path / "below.img",
        f"PYTEST_VM_REPORT: */below.img: it is a layer of the base image {image}; {choose}",
        "--vm-image=base.qcow2",
    )
    monkeypatch.delenv("PYTEST_VM_REPORT")
    (pytester.path / "hard.html").hardlink_to(pytester.path / "empty.img")
    pytester.makeini("[pytest]\nvm_report = hard.html\nvm_image = empty.img")
    refused(pytester.path / "empty.img", f"tox.ini: vm_report: */hard.html: it is the base image; {choose}")


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [("others", OTHERS), ("device", "it is no file; nothing was written; *")],
)
def test_a_page_in_the_place_of_what_is_none(pytester: pytest.Pytester, kind: str, sentence: str) -> None:
    place = pytester.path / "report.html"
    if kind == "others":
        place.write_text("<!doctype html><title>Of another tool</title>")
    else:
        place.symlink_to("/dev/null")
    before = place.lstat().st_ino
    result = pytester.runpytest_subprocess(*PLAIN, "--vm-report=report.html")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: --vm-report: {place}: {sentence}"])
    assert place.lstat().st_ino == before


def test_a_page_replaces_a_page_and_an_empty_file_but_not_what_a_test_has_put_there(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import os, pathlib
        def test_it():
            if "SPOIL" in os.environ:
                pathlib.Path("report.html").write_text("a test's own")
    """)
    page = pytester.path / "report.html"
    page.touch()
    for _ in range(2):
        pytester.runpytest_subprocess(*PLAIN, "--vm-report=report.html").assert_outcomes(passed=1)
        assert "<title>Test run in virtual machines</title>" in page.read_text()[:4096]
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SPOIL", "1")
        result = pytester.runpytest_subprocess(*PLAIN, "--vm-report=report.html")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["report: */report.html could not be written: it is a file that is there already, *"])
    assert page.read_text() == "a test's own"


def test_an_output_folder_that_is_a_file(pytester: pytest.Pytester, image: Path, refused: Callable[..., None]) -> None:
    refused(
        image, "--vm-output: */base.qcow2: it is the base image; nothing was written; choose a folder",
        "--vm-image=base.qcow2", "--vm-output=base.qcow2",
    )  # fmt: skip


def test_each_overlay_is_kept_whatever_the_machines_are_called(pytester: pytest.Pytester, image: Path) -> None:
    pytester.makepyfile("""
        def test_it(readonly_vm, readonly_vm_factory):
            for vm in (readonly_vm, *(readonly_vm_factory(name=name) for name in ("overlay", "x", "x"))):
                vm.kill()
    """)
    pytester.makeini(f"[pytest]\nvm_image = {image}")
    options = (*SMALL, *PLAIN, "--vm-snapshot=overlay", "--vm-keep=always")
    for _ in range(2):  # in another run they are the same
        pytester.runpytest_subprocess(*options).assert_outcomes(passed=1)
        kept = (pytester.path / "test-results").rglob("*.qcow2")
        assert sorted(path.name for path in kept) == ["overlay-2.qcow2", "overlay.qcow2", "x-2.qcow2", "x.qcow2"]


def test_an_overlay_is_not_kept_over_the_kept_one_that_is_the_base_now(pytester: pytest.Pytester, image: Path) -> None:
    pytester.makepyfile("""
        import pathlib
        def test_it(readonly_vm):
            pathlib.Path("ran").touch()
            readonly_vm.kill()
    """)
    options = (*SMALL, *PLAIN, "--vm-snapshot=overlay", "--vm-keep=always")
    pytester.makeini(f"[pytest]\nvm_image = {image}")
    pytester.runpytest_subprocess(*options).assert_outcomes(passed=1)
    [kept] = (pytester.path / "test-results").rglob("overlay.qcow2")
    (pytester.path / "ran").unlink()
    before = kept.read_bytes(), kept.stat().st_ino, kept.stat().st_ctime_ns
    pytester.makeini(f"[pytest]\nvm_image = {kept}")
    result = pytester.runpytest_subprocess(*options)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        [f"*--vm-keep: keep: the overlay would go to {kept}, and it is the base image; nothing was written; *"]
    )
    assert not (pytester.path / "ran").exists()
    assert (kept.read_bytes(), kept.stat().st_ino, kept.stat().st_ctime_ns) == before
