"""Owns what pytest is told of the settings at each start, and whether anybody has given one; what, reads `given`."""

import os

import pytest

from pytest_readonly_vm.config.table import OPTIONS

PREFIX = "PYTEST_VM_"
"""How the names of environment variables begin."""

_INI_TYPES = {str: "string", int: "int", float: "float", bool: "bool", list: "args"}


def add_options(parser: pytest.Parser) -> None:
    """Declare ``--vm-NAME`` and the ini key ``vm_NAME`` for every setting."""
    group = parser.getgroup(
        "vm",
        "virtual machines (pytest-readonly-vm); each also as PYTEST_VM_NAME, ini vm_NAME, @pytest.mark.vm(name=...)",
    )
    for name, option in OPTIONS.items():
        words = f"--vm-{name.replace('_', '-')}"
        if option.kind is bool:
            group.addoption(words, dest=f"vm_{name}", action="store_const", const=True, help=option.help)
        else:
            action = "append" if option.repeatable else "store"
            group.addoption(words, dest=f"vm_{name}", action=action, metavar=option.metavar, help=option.help)
        kind = "linelist" if option.repeatable and option.kind is str else _INI_TYPES[option.kind]
        parser.addini(f"vm_{name}", f"as {words}: {option.help}", type=kind, default=None)  # type: ignore[arg-type]


def are_given(config: pytest.Config) -> bool:
    """Whether there is a setting by option, environment, ini file or xdist's controller, possible or not."""
    if told_by_controller(config, "shard") or told_by_controller(config, "timings") is not None:
        return True
    if any(variable.startswith(PREFIX) for variable in os.environ):
        return True
    return any(config.getoption(f"vm_{name}") is not None or _is_in_ini(config, name) for name in OPTIONS)


def told_by_controller(config: pytest.Config, name: str) -> object:
    """What xdist's controller has told this worker, whose computer may have another environment; else None."""
    return getattr(config, "workerinput", {}).get(f"readonly_vm_{name}")


def _is_in_ini(config: pytest.Config, name: str) -> bool:
    try:
        return config.getini(f"vm_{name}") is not None
    except (TypeError, ValueError, pytest.UsageError):  # which is told when it is read
        return True
