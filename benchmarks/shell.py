"""Owns the yardstick: the machine's own QEMU command line, started from a shell by the least code that works."""

import os
import re
import shlex
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

_REPLACED = (
    (re.compile(r"socket,id=monitor,fd=\d+"), "null,id=monitor"),
    (re.compile(r"socket,id=console,fd=\d+"), "stdio,id=console,signal=off"),
)
_IMAGE = re.compile(r"/dev/fdset/\d+")


class Run(NamedTuple):
    """Seconds from the start to the guest's word on the serial port, and from the kill to the end of the process."""

    boot: float
    end: float


def shell_command(command_line: str, image: Path) -> str:
    """What a shell user would type for the machine with this `VirtualMachine.command_line`.

    Only what lives in inherited descriptors is different: the image by its path, still with ``snapshot=on``, the
    serial port on stdin and stdout, the monitor nowhere.
    """
    words = shlex.split(command_line)
    while "-add-fd" in words:
        at = words.index("-add-fd")
        del words[at : at + 2]
    for pattern, replacement in _REPLACED:
        words = [pattern.sub(replacement, word) for word in words]
    return "exec " + shlex.join(_IMAGE.sub(lambda _: str(image), word) for word in words)


def run(command: str, ready: str) -> Run:
    """Start `command` with ``/bin/sh -c``, wait until the guest prints `ready`, kill it and wait for its end.

    :raises RuntimeError: it ended without printing that.
    """
    started = time.perf_counter()
    with subprocess.Popen(["/bin/sh", "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            wanted, seen = ready.encode(), b""
            while wanted not in seen:
                data = os.read(process.stdout.fileno(), 1 << 16)
                if not data:
                    raise RuntimeError(f"it ended without {ready!r}: {command}")
                seen += data
            booted = time.perf_counter()
        finally:
            process.kill()
        process.wait()
        ended = time.perf_counter()
    return Run(booted - started, ended - booted)
