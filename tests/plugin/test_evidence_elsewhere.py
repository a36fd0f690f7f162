"""What other reporters show of a failure: JUnit XML, pytest-html, Allure, GitHub Actions."""

import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.accelerator import ACCEL

Run = Callable[..., pytest.RunResult]

TESTS = "def test_bad(readonly_vm): assert 0, 'a | b'\ndef test_good(readonly_vm): pass"


def properties(report: Path, test: str) -> dict[str, str]:
    [case] = [case for case in ElementTree.parse(report).getroot().iter("testcase") if case.get("name") == test]
    return {found.get("name", ""): found.get("value", "") for found in case.iter("property")}


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["one process", "xdist"])
def test_junit_says_of_each_test_on_what_it_ran(
    pytester: pytest.Pytester, run_on: Run, boot_sector: Callable[[str], Path], workers: tuple[str, ...]
) -> None:
    pytester.makepyfile(TESTS)
    shared = "--vm-qemu-args=-object memory-backend-ram,id=shared,size=1M,share=on"
    run_on("hello", "--junit-xml=report.xml", shared, *workers)
    good, bad = (properties(pytester.path / "report.xml", name) for name in ("test_good", "test_bad"))
    assert good["vm_image"] == str(boot_sector("hello"))
    assert good["vm_image_fingerprint"].startswith("size=")
    assert good["vm_accelerator"].startswith(ACCEL)
    assert good["vm_start"] == "boot"
    assert good["vm_start_reason"].endswith("copies would share it")
    assert "vm_evidence" not in good
    assert (pytester.path / bad["vm_evidence"] / "overview.txt").exists()


def test_junit_has_the_digest_of_a_base_that_is_verified_by_it(pytester: pytest.Pytester, run_on: Run) -> None:
    pytester.makepyfile(TESTS)
    run_on("hello", "--junit-xml=report.xml", "--vm-verify=hash")
    assert re.fullmatch("[0-9a-f]{64}", properties(pytester.path / "report.xml", "test_good")["vm_image_sha256"])


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["one process", "xdist"])
def test_the_page_of_pytest_html_has_screenshot_and_links(
    pytester: pytest.Pytester, run_on: Run, workers: tuple[str, ...]
) -> None:
    pytester.makepyfile(TESTS)
    pytester.mkdir("pages")
    run_on("hello", "--html=pages/report.html", *workers, needed=("html", "metadata"))
    page = (pytester.path / "pages" / "report.html").read_text()
    links = set(re.findall(r"\.\./test-results/[^&\"]+/console\.txt", page))
    assert [(pytester.path / "pages" / link).read_text() for link in links] == ["hello"]
    [picture] = (pytester.path / "pages").rglob("*.png")
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("tests", [TESTS, "def test_bad(readonly_vm): assert 0"], ids=["call", "setup"])
def test_allure_gets_the_files(pytester: pytest.Pytester, run_on: Run, run_in_vain: Run, tests: str) -> None:
    pytester.makepyfile(tests)
    run = run_on if tests == TESTS else run_in_vain
    run("hello", "--alluredir=allure", "--clean-alluredir", needed=("allure_pytest",))
    results = [json.loads(path.read_text()) for path in (pytester.path / "allure").glob("*-result.json")]
    [bad] = [result for result in results if result["name"] == "test_bad"]
    sources = {one["name"]: one["source"] for one in bad["attachments"]}
    assert {"overview.txt", "screenshot.png", "qmp.jsonl"} <= set(sources)
    assert (pytester.path / "allure" / sources["console.txt"]).read_text() == "hello"


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["one process", "xdist"])
def test_a_job_of_github_actions_gets_one_table(
    pytester: pytest.Pytester, run_on: Run, monkeypatch: pytest.MonkeyPatch, workers: tuple[str, ...]
) -> None:
    page = pytester.path / "summary.md"
    page.write_text("of an earlier step\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))
    pytester.makepyfile(TESTS)
    run_on("hello", *workers)
    first, *lines = page.read_text().splitlines()
    assert first == "of an earlier step"
    [row] = [line for line in lines if "test\\_bad" in line]
    assert "call: AssertionError: a \\| b" in row
    assert "test-results/" in row
    assert not any("good" in line for line in lines)
    run_on("hello", "-k", "good", *workers)
    assert page.read_text().splitlines() == [first, *lines]
