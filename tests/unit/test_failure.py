"""Which line of what a command has printed is told as the reason of its failure."""

import pytest

from pytest_readonly_vm import CommandResult
from pytest_readonly_vm.plugin.failure import _why

DD = "dd: error writing '/x': No space left on device\n1559+0 records in\n1634267136 bytes (1.6 GB) copied, 1.2 s\n"
JOB = (
    "Job for shop.service failed because the control process exited with error code.\n"
    'See "systemctl status shop.service" and "journalctl -xeu shop.service" for details.\n'
)
PYTHON = 'Traceback (most recent call last):\n  File "x", line 1\nKeyError: 1\nduring exit\nValueError: no port\n'


@pytest.mark.parametrize(
    ("stderr", "stdout", "reason"),
    [
        (DD, "", "dd: error writing '/x': No space left on device"),
        (JOB, "", "Job for shop.service failed because the control process exited with error code."),
        (PYTHON, "", "ValueError: no port"),
        ("one\ntwo\n", "three\n", "two"),
        ("", "starting\nE: Unable to locate package x\n", "E: Unable to locate package x"),
        ("", "", ""),
    ],
    ids=["dd", "systemctl", "Python", "no word for it", "stdout", "silent"],
)
def test_the_reason(stderr: str, stdout: str, reason: str) -> None:
    assert _why(CommandResult("x", 1, stdout.encode(), stderr.encode(), 0.1)) == reason
