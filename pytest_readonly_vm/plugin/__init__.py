"""The only floor that knows pytest. This file is the ``pytest11`` entry point: what each run has, machines or not.

Those are the options, the marker, the fixtures by their names, and the door by which all else comes once it is wanted.
A project that uses no machine is not to pay for that; `tests/plugin/test_door.py` lists what is imported here.
"""

import pytest

from pytest_readonly_vm.plugin.door import Door
from pytest_readonly_vm.plugin.fixtures import fixture_module
from pytest_readonly_vm.plugin.options import add_options, are_given


def pytest_addoption(parser: pytest.Parser) -> None:
    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "vm(**settings): settings of this test's virtual machine, named like the options without --vm-: "
        'vm(memory="2G", cpus=2). On a module or class they count for its shared machine too.',
    )
    door = Door(config)
    if are_given(config):
        door.open()
    config.pluginmanager.register(door, "readonly_vm door")
    config.pluginmanager.register(fixture_module(config), "readonly_vm fixtures")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    Door.of(config).look_over(items)
