"""The only floor that knows pytest. This file is the ``pytest11`` entry point and wires the others together.

Nothing imported here may load asyncio or qemu.qmp: a project that uses no machine is not to pay for them.
"""

import contextlib
from collections.abc import Generator
from typing import Any

import pytest

from pytest_readonly_vm.errors import ConfigurationError
from pytest_readonly_vm.plugin import header, markers, options, report, timeouts
from pytest_readonly_vm.plugin.debugger import Debugger
from pytest_readonly_vm.plugin.fixtures import fixture_module
from pytest_readonly_vm.plugin.health import Gates
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
    config.pluginmanager.register(Run.of(config).evidence, "readonly_vm evidence")
    config.pluginmanager.register(Run.of(config).progress, "readonly_vm progress")
    config.pluginmanager.register(Summary(), "readonly_vm summary")
    config.pluginmanager.register(Debugger(), "readonly_vm debugger")
    config.pluginmanager.register(Gates(Run.of(config)), "readonly_vm health gates")
    if "report" in options.given_settings(config) and not hasattr(config, "workerinput"):
        from pytest_readonly_vm.plugin.page import Page  # which other runs are not to pay for

        config.pluginmanager.register(Page(config), "readonly_vm page")
    if not hasattr(config, "workerinput"):
        Run.of(config).check_output()


def pytest_report_header(config: pytest.Config) -> list[str]:
    return header.lines(config)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not hasattr(config, "workerinput"):
        markers.check(items)
    for item in items:
        with contextlib.suppress(ConfigurationError):  # which the checks of markers tell
            for settings in markers.settings_of(item):
                Run.of(config).protect(settings)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, object, object]:
    run = Run.of(item.config)
    run.current = item
    run.lookahead.go_on_to(nextitem)
    timeouts.give_default(item)  # before pytest-timeout's own wrapper looks for one
    return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if hasattr(item.config, "workerinput"):  # where an error in the collection would end in xdist's own
        markers.check([item])
    run = Run.of(item.config)
    run.check_broken(item)
    run.reset_shared(item)
    run.hand_over(item)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    Run.of(item.config).look_ahead()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    Run.of(item.config).note_use(item)


@pytest.hookimpl(tryfirst=True, optionalhook=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> bool | None:
    run = Run.of(item.config)
    return timeouts.set_timer(
        item,
        settings,
        before_failure=lambda: run.before_timeout(item),
        before_end=lambda: run.last_words(item),
    )
