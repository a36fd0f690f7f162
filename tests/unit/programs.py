"""Owns Python code in processes of its own, for tests of what several processes share."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence

from tests.qemu.waiting import GENEROUS


@contextlib.contextmanager
def program(code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A process that runs the code, with pipes as input and output; killed in the end."""
    with subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def says(process: subprocess.Popen[str]) -> str:
    """The next line that it prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def start_together(processes: Sequence[subprocess.Popen[str]]) -> None:
    """Give each the line that it waits for, and see that all end well."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.wait(GENEROUS) for process in processes] == [0] * len(processes)
