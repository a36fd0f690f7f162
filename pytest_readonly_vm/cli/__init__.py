"""The command ``readonly-vm``: what a terminal wants from this package outside of a run of pytest.

Each command is a file in this folder, with the three names of `Command`.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import NoReturn, Protocol

from pytest_readonly_vm.cli import cache
from pytest_readonly_vm.errors import ConfigurationError, VmError


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


COMMANDS: Mapping[str, Command] = {"cache": cache}


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
    for name, command in COMMANDS.items():
        command.declare(parsers.add_parser(name, help=command.HELP, description=f"{command.HELP.capitalize()}."))
    arguments = parser.parse_args(argv)
    try:
        return COMMANDS[arguments.command].run(arguments)
    except (VmError, OSError) as error:
        print(f"readonly-vm: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigurationError) else 1
