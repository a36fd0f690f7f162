"""Floor 4: the only floor that knows pytest. This file is the ``pytest11`` entry point and wires the others together.

Nothing imported here may load asyncio or qemu.qmp: a project that uses no machine is not to pay for them.
"""

import pytest

from pytest_readonly_vm.plugin import header, markers, options, report
from pytest_readonly_vm.plugin.fixtures import fixture_module
from pytest_readonly_vm.plugin.run import Run
from pytest_readonly_vm.plugin.summary import Summary


def pytest_addoption(parser: pytest.Parser) -> None:
    options.add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    markers.declare(config)
    options.read_settings(config)
    Run(config)
    config.pluginmanager.register(fixture_module(config), "readonly_vm fixtures")
    config.pluginmanager.register(report, "readonly_vm report")
    config.pluginmanager.register(Summary(), "readonly_vm summary")


def pytest_report_header(config: pytest.Config) -> list[str]:
    return header.lines(config)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not hasattr(config, "workerinput"):
        markers.check(items)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if hasattr(item.config, "workerinput"):  # where an error in the collection would end in xdist's own
        markers.check([item])
