"""Owns what a host says of itself before workers are started on it: whether tests can run there, and with what.

Runs on the host, in a process of its own that ends then, started by `probe`.
"""

import contextlib
import sys
from typing import Any

import pytest
from _pytest.config import _prepareconfig  # as xdist's workers have it

from pytest_readonly_vm.errors import VmError
from pytest_readonly_vm.plugin.given import given_images, given_settings, read_settings
from pytest_readonly_vm.plugin.header import describe


def examine(arguments: list[str]) -> dict[str, Any]:
    """What a worker would find here: ``lines`` of the header, or ``refused``, a sentence.

    :param arguments: of pytest, in this folder.
    """
    with contextlib.redirect_stdout(sys.stderr):
        try:
            config = _prepareconfig(arguments)
        except pytest.UsageError as error:
            return {"refused": _first_line(error)}
        except SystemExit:
            return {"refused": "pytest takes other options there; are the same plugins installed?"}
        except Exception as error:
            return {"refused": f"{type(error).__name__}: {_first_line(getattr(error, 'cause', None) or error)}"}
        try:
            if not config.pluginmanager.hasplugin("readonly_vm"):
                return {"refused": "pytest does not load pytest-readonly-vm there; install it, as by pip install -e ."}
            config.option.tx, config.option.dist = [], "no"  # as in a worker
            read_settings(config)
            return {"lines": describe(given_images(config), given_settings(config))}
        except (VmError, pytest.UsageError) as error:
            return {"refused": _first_line(error)}


def _first_line(error: object) -> str:
    return str(error).strip().partition("\n")[0]
