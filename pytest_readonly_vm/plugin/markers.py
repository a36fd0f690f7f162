"""Owns the marker ``vm``: what it sets, and the complaints about markers that cannot work."""

from collections.abc import Iterable, Iterator

import pytest

from pytest_readonly_vm.config.setting import Given
from pytest_readonly_vm.config.settings import VmConfig, parse
from pytest_readonly_vm.config.table import SCOPES
from pytest_readonly_vm.errors import ConfigurationError

_OWN_MACHINE = frozenset({"readonly_vm", "readonly_vm_factory", "vm_config"})
_SHARED_MACHINES = frozenset(f"readonly_vm_{scope}" for scope in SCOPES[1:])


def settings_of(node: pytest.Item | pytest.Collector) -> list[dict[str, Given]]:
    """What the markers on a node and on those above it say, the outermost first.

    :raises ConfigurationError: a marker with positional arguments.
    """
    return [_settings(mark, owner.nodeid, node) for owner, mark in node.iter_markers_with_node("vm")][::-1]


def _settings(mark: pytest.Mark, owner: str, node: pytest.Item | pytest.Collector) -> dict[str, Given]:
    """What a marker says that `node` has from what is called `owner`."""
    origin = f"marker on {owner or 'the session'}"
    if mark.args:
        raise ConfigurationError(f'{origin}: vm takes settings by name, like vm(memory="2G"), not {mark.args!r}')
    folder = node.path if node.path.is_dir() else node.path.parent
    return {name: Given(value, origin, folder) for name, value in mark.kwargs.items()}


def check(items: Iterable[pytest.Item]) -> None:
    """Complain about all markers of collected tests that cannot work, before any of them runs.

    :raises pytest.UsageError: an unknown name, an impossible value, or a marker on a test that cannot change its
        machine because it shares it with others.
    """
    found: dict[str, str] = {}  # one for all parameters of a test
    for item in items:
        for complaint in _complaints(item):
            found.setdefault(complaint.replace(item.nodeid, item.nodeid.partition("[")[0]), complaint)
    if len(found) == 1:
        raise pytest.UsageError(*found.values())
    if found:
        raise pytest.UsageError("\n  ".join([f"{len(found)} markers cannot work:", *found.values()]))


def _complaints(item: pytest.Item) -> Iterator[str]:
    """What is wrong with the markers that a test has, a sentence each, which begins with the place."""
    for owner, mark in item.iter_markers_with_node("vm"):
        try:
            settings = _settings(mark, owner.nodeid, item)
        except ConfigurationError as error:
            yield str(error)
            continue
        for name, given in settings.items():
            try:
                parse(name, given)
            except ConfigurationError as error:
                yield str(error)
    fixtures = set(getattr(item, "fixturenames", ()))
    shared = sorted(fixtures & _SHARED_MACHINES)
    if shared and not fixtures & _OWN_MACHINE and any(mark.name == "vm" for mark in item.own_markers):
        yield (
            f"marker on {item.nodeid}: vm cannot change {shared[0]}, which other tests share; "
            "put the marker where the machine's scope begins, or use readonly_vm"
        )


def applied(config: VmConfig, node: pytest.Item | pytest.Collector) -> VmConfig:
    """`config` as changed by the markers that a node has.

    :raises ConfigurationError: as `settings_of`, an unknown name, an impossible value.
    """
    for settings in settings_of(node):
        config = config.with_settings(settings)
    return config
