"""Owns the look ahead: which machine the next test will want, as far as that can be known before its fixtures run."""

import os

import pytest

from pytest_readonly_vm.config.settings import VmConfig

_USERS = ("readonly_vm", "readonly_vm_factory", "readonly_vm_cluster")


class Lookahead:
    """Guesses from the tests that ran. A wrong guess costs a machine that nobody sees."""

    def __init__(self) -> None:
        self._known: dict[object, VmConfig] = {}
        self._next: pytest.Item | None = None

    def ran(self, item: pytest.Item, config: VmConfig) -> None:
        """A test had a machine of its own of this configuration."""
        if (like := likeness(item)) is not None:  # else it asked while it ran, which nothing tells of others before
            self._known[like] = config

    def go_on_to(self, item: pytest.Item | None) -> None:
        """This test will come after the one that is about to run."""
        self._next = item

    def expected(self) -> list[tuple[VmConfig, str]]:
        """The machines to start ahead: their configurations and names."""
        if self._next is None or (config := self._known.get(likeness(self._next))) is None:
            return []
        # A worker of xdist knows only its next test: others may have those after it.
        is_one_of_many = hasattr(self._next.config, "workerinput")
        wanted = _usual(config) if config.prefetch == "auto" else int(config.prefetch)
        if not wanted:
            return []
        names = [self._next.name]
        if wanted > 1 and not is_one_of_many:
            items = self._next.session.items
            start = items.index(self._next) + 1
            following = items[start : start + wanted - 1]
            names += [item.name for item in following if likeness(item) == likeness(self._next)]
        return [(config, name) for name in names]


def _usual(config: VmConfig) -> int:
    """Two at most, as more are not ready sooner, one cluster, and none where there is but one CPU."""
    several = 2 if config.cluster is None else 1
    return several if len(os.sched_getaffinity(0)) > 1 else 0


def likeness(item: pytest.Item) -> object:
    """Tests of which this is equal will want the same machine, unless fixtures are overridden in their modules."""
    return variant(item) if any(name in getattr(item, "fixturenames", ()) for name in _USERS) else None


def variant(item: pytest.Item) -> object:
    """What of a test's markers and parameters may change its machine."""
    marks = tuple(repr((mark.args, mark.kwargs)) for mark in item.iter_markers("vm"))
    spec = getattr(item, "callspec", None)
    parameters = {name: value for name, value in spec.params.items() if name.startswith("vm_")} if spec else {}
    return (marks, repr(parameters))
