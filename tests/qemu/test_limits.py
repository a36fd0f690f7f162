"""Whatever this computer refuses to a run is told in a sentence, in fixtures and commands, and never a bare error."""

import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.accelerator import ACCEL
from tests.conftest import SMALL
from tests.forked import PLAIN
from tests.mount_namespace import own_mounts

FILES = "this process may have no more than {} open files"


def run_under(pytester: pytest.Pytester, limit: str, *words: str | Path) -> pytest.RunResult:
    return pytester.run("sh", "-c", f'{limit} && exec "$@"', "sh", sys.executable, *words)


@pytest.mark.parametrize("files", [20, 26, 34])
def test_few_open_files(pytester: pytest.Pytester, boot_sector: Callable[[str], Path], files: int) -> None:
    is_refused(pytester, boot_sector("hello"), f"ulimit -n {files}", FILES.format(files))


def test_a_limit_for_files(pytester: pytest.Pytester, boot_sector: Callable[[str], Path]) -> None:
    sentence = "a guest's memory cannot be had: a file of this process may have no more than 1048576 bytes"
    is_refused(pytester, boot_sector("hello"), "ulimit -f 2048", sentence, "--vm-start=clone")


@pytest.mark.parametrize(("inodes", "sentence"), [(4, "/pytest-readonly-vm-*"), (5, "/1")])
def test_no_inodes(pytester: pytest.Pytester, boot_sector: Callable[[str], Path], inodes: int, sentence: str) -> None:
    small = pytester.mkdir("small")
    mounted = f"mount -t tmpfs -o size=200m,nr_inodes={inodes} none {small} && export TMPDIR={small}"
    in_namespace = f'exec {shlex.join(own_mounts())} sh -c \'{mounted} && exec "$@"\' sh "$@"; true'
    is_refused(
        pytester,
        boot_sector("hello"),
        in_namespace,
        f"no machine can be started: *{sentence}: No space left on device (or no inodes: df -h, df -i)",
        "--vm-no-cache",
    )


def is_refused(pytester: pytest.Pytester, image: Path, limit: str, sentence: str, *options: str) -> None:
    pytester.makepyfile("def test_it(readonly_vm): pass")
    result = run_under(pytester, limit, "-m", "pytest", f"--vm-image={image}", *SMALL, *PLAIN, *options)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"*{sentence}*"])
    for line in result.outlines + result.errlines:
        assert not any(word in line for word in ("OSError", "INTERNALERROR", "Traceback", "never retrieved")), line


def test_a_command(pytester: pytest.Pytester, boot_sector: Callable[[str], Path]) -> None:
    program = "import sys; from pytest_readonly_vm.cli import main; sys.exit(main())"
    options = ("--memory=16M", "--ready=console:hello", f"--accel={ACCEL}", "--budget=off", "-c", "true")
    result = run_under(pytester, "ulimit -n 20", "-c", program, "shell", boot_sector("hello"), *options)
    assert result.ret == 1
    [line] = result.errlines
    assert line.startswith("readonly-vm: ")
    assert FILES.format(20) in line
