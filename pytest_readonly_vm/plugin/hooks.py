"""Owns the hooks of a run that has a use for machines, and with what that begins. Until then there is the `door`."""

import contextlib
import sys
from collections.abc import Generator
from typing import Any

import pytest

from pytest_readonly_vm.errors import ConfigurationError
from pytest_readonly_vm.plugin import header, markers, report, timeouts
from pytest_readonly_vm.plugin.debugger import Debugger
from pytest_readonly_vm.plugin.disks import DiskKeeper
from pytest_readonly_vm.plugin.given import given_settings, read_settings
from pytest_readonly_vm.plugin.health import Gates
from pytest_readonly_vm.plugin.options import told_by_controller
from pytest_readonly_vm.plugin.output_folder import check_output
from pytest_readonly_vm.plugin.run import Run
from pytest_readonly_vm.plugin.summary import Session, Summary


def begin(config: pytest.Config, run_name: str, session: Session) -> None:
    """Read the settings, and register all that hears of tests.

    :param run_name: the same in all processes of a run.
    :raises pytest.UsageError: a setting is wrong, or names a place where nothing may be written.
    """
    read_settings(config)
    run = Run(config, run_name)
    plugins = {
        "hooks": sys.modules[__name__],
        "networks": run.networks,
        "disks": DiskKeeper(run),
        "report": report,
        "evidence": run.evidence,
        "progress": run.progress,
        "summary": Summary(session),
        "debugger": Debugger(),
        "health gates": Gates(run),
    }
    given = given_settings(config)
    if "report" in given and not hasattr(config, "workerinput"):
        from pytest_readonly_vm.plugin.page import Page  # which other runs are not to pay for

        plugins["page"] = Page(config)
    if "durations" in given or "store_durations" in given or told_by_controller(config, "timings") is not None:
        from pytest_readonly_vm.plugin.distribution.timings import Clerk

        plugins["timings"] = Clerk(config, run.output_guard)
    if "shard" in given or told_by_controller(config, "shard") or getattr(config.option, "loadgroup", False):
        from pytest_readonly_vm.plugin.distribution.shards import Shards

        plugins["shards"] = Shards(config)
    if "readonly_vm_line" in getattr(config, "workerinput", {}):
        from pytest_readonly_vm.plugin.hosts.worker import FarWorker  # which other runs are not to pay for

        plugins["far worker"] = FarWorker(run, config)
    for name, plugin in plugins.items():
        config.pluginmanager.register(plugin, f"readonly_vm {name}")
    if not hasattr(config, "workerinput"):
        check_output(config, run.output_guard)


def pytest_report_header(config: pytest.Config) -> list[str]:
    return header.lines(config)


def look_over(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Check the markers of all tests that were collected, and keep in mind what they start machines with.

    :raises pytest.UsageError: as `markers.check`; in a worker of xdist the tests tell it.
    """
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
    run.lookahead.go_on_to(item, nextitem)
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
