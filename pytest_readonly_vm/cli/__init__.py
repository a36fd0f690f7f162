"""The command ``readonly-vm``: what a terminal wants from this package outside of a run of pytest.

Each command is a file in this folder, with the three names of `Command`.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from typing import NoReturn, Protocol, cast

from pytest_readonly_vm.errors import ConfigurationError, VmError
from pytest_readonly_vm.host.os_errors import explain
from pytest_readonly_vm.printable import line


class Command(Protocol):
    """What the module of a command has."""

    HELP: str
    """One line."""

    def declare(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments."""

    def run(self, arguments: argparse.Namespace) -> int:
        """Do it, and return the exit status.

        :raises ConfigurationError: the command was used wrongly.
        :raises VmError: it cannot be done.
        """


COMMANDS = ("doctor", "boot", "shell", "attach", "resume", "cache", "image", "report")
"""In the order of the help. A command's module is imported when it is meant: most need what takes long to import."""

_FOR_DEVELOPERS = ("Command line: ", "Events so far: ")
_INTERRUPTED = 130  # as shells have it, for a death by SIGINT


def _command(name: str) -> Command:
    return cast(Command, import_module(f"{__name__}.{name}"))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0 for success, 2 for wrong use, 1 for anything else.

    :raises SystemExit: with that status, when the arguments alone decide it: wrong ones, ``--help``, ``--version``.
    """
    parser = _Parser(prog="readonly-vm", description="What belongs to pytest-readonly-vm outside of a run of pytest.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('pytest-readonly-vm')}")
    parsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    argv = sys.argv[1:] if argv is None else argv
    meant = [word for word in argv[:1] if word in COMMANDS]
    for name in meant or COMMANDS:
        command = _command(name)
        command.declare(
            parsers.add_parser(name, help=command.HELP, description=f"{command.HELP[0].upper()}{command.HELP[1:]}.")
        )
    arguments = parser.parse_args(argv)
    try:
        return _command(arguments.command).run(arguments)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:  # whoever reads our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (VmError, OSError) as error:
        sentence = str(error) if isinstance(error, VmError) else explain(error) or str(error)
        print(f"readonly-vm: {line(sentence)}", file=sys.stderr)
        for note in getattr(error, "__notes__", ()):
            if not note.startswith(_FOR_DEVELOPERS):
                print(note, file=sys.stderr)
        return 2 if isinstance(error, ConfigurationError) else 1
