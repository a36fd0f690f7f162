"""Paths are bytes: a folder whose name is no UTF-8 serves for all but what QEMU is to be told of while it runs."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from pytest_readonly_vm import HostError
from pytest_readonly_vm.host.workspace import Workspace
from tests.conftest import SMALL
from tests.forked import plain

TESTS = """
    import pytest

    def test_passes(readonly_vm, tmp_path):
        assert readonly_vm.console.text
        readonly_vm.screen.screenshot(tmp_path / "shot.png")

    @pytest.mark.vm(provision="cloud-init", start="cold")
    def test_is_seeded(readonly_vm):
        pass

    def test_fails(readonly_vm):
        assert readonly_vm.pid == 0
"""


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    return folder


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_a_run_in_which_all_folders_are_odd(boot_sector: Callable[[str], Path], odd: Path, errors: str) -> None:
    """With a terminal that takes such bytes, and with one to which Python does not give them."""
    image = shutil.copy(boot_sector("hello"), odd / "disk.img")
    for name in ("cache", "project"):
        (odd / name).mkdir(mode=0o700)
    (odd / "project/test_it.py").write_text(dedent(TESTS))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-rA", f"--rootdir={odd}/project", *plain(), *SMALL, "--vm-start=clone"),
            *(f"--vm-image={image}", f"--vm-cache={odd}/cache", f"--vm-output={odd}/output"),
            *(f"--vm-report={odd}/report.html", f"--junitxml={odd}/junit.xml", odd / "project"),
        ],
        env={**os.environ, "PYTHONIOENCODING": f"utf-8:{errors}", "GITHUB_STEP_SUMMARY": str(odd / "step.md")},
        cwd=odd,
        capture_output=True,
        timeout=120,
        check=False,
    )
    said = done.stdout.decode(errors="replace")
    print(said[-9000:], done.stderr.decode(errors="replace"))
    assert done.stderr == b""
    assert "INTERNALERROR" not in said
    assert "UnicodeEncodeError" not in said
    assert "2 passed" in said
    assert "1 failed" in said
    assert "caf" in (odd / "junit.xml").read_text()
    assert "caf" in (odd / "report.html").read_text()
    assert list((odd / "output").glob("*/*"))
    assert list((odd / "cache").glob("*/manifest.json"))


def test_a_temporary_folder_that_qemu_cannot_be_told_is_refused(odd: Path) -> None:
    with pytest.raises(HostError, match=r"caf.* is a name that is not UTF-8; use --vm-tmpdir=DIR"):
        Workspace(odd)
