"""Owns settings as a command has them: its own argument decides, then the environment. It reads no ini file."""

import argparse
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from pytest_readonly_vm.config.setting import Given
from pytest_readonly_vm.config.table import OPTIONS


def declare_settings(add_argument: Callable[..., object], names: Iterable[str]) -> None:
    """Add settings by a parser's or a group's `add_argument`, each under its own name: ``memory`` is ``--memory``."""
    for name in names:
        option = OPTIONS[name]
        argument, help = f"--{name.replace('_', '-')}", option.help.replace("%", "%%")
        if option.kind is bool:
            add_argument(argument, action="store_const", const=True, help=help)
        else:
            action = "append" if option.repeatable else "store"
            add_argument(argument, action=action, metavar=option.metavar, help=help)


def given_settings(arguments: argparse.Namespace, names: Iterable[str]) -> dict[str, Given]:
    """What the arguments, if the command has such, and the environment say."""
    given = {}
    for name in names:
        variable = f"PYTEST_VM_{name.upper()}"
        if (value := getattr(arguments, name, None)) is not None:
            given[name] = Given(OPTIONS[name].of_options(value), f"--{name.replace('_', '-')}", Path.cwd())
        elif (value := os.environ.get(variable)) is not None:
            given[name] = Given(OPTIONS[name].of_variable(value), variable, Path.cwd())
    return given
