"""``readonly-vm attach``: this terminal for a machine that somebody else holds, such as a test that stands still."""

import argparse
import socket
from pathlib import Path

from pytest_readonly_vm.errors import VmError
from pytest_readonly_vm.host.terminal import Ending, Terminal

HELP = "give this terminal to the root shell of a machine that a test or a debugger holds"

_QUIET = 1.0  # seconds


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", type=Path, metavar="PATH", help="the shell's socket, as vm.debug() or --pdb print it")


def run(arguments: argparse.Namespace) -> int:
    with socket.socket(socket.AF_UNIX) as stream, Terminal() as terminal:
        try:
            stream.connect(str(arguments.path))
        except OSError as error:
            raise VmError(f"{arguments.path} leads to no machine (any more): {error.strerror or error}") from None
        if terminal.is_interactive:
            terminal.say("Enter shows a prompt; Ctrl-] leaves, and the machine goes on")
        if terminal.lend(stream, quiet_after_input=_QUIET) is Ending.CLOSED:
            terminal.say("the machine has ended, or its shell was taken away")
    return 0
