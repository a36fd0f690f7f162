"""Owns the look ahead: which machine the next test will want, as far as that can be known before its fixtures run."""

import os

import pytest

from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.plugin.distribution.kinds import Wish, kind_of, wishes
from pytest_readonly_vm.plugin.given import given_settings

_MACHINES = ("readonly_vm", "readonly_vm_cluster")
"""The fixtures that are a machine of the test's own, or several; what a factory is asked for, nobody knows."""

_SOON = 20
"""Tests ahead of the one that runs, of which one may be the first of another kind."""


class Lookahead:
    """Knows what settings say, and guesses from the tests that ran. A wrong guess costs a machine that nobody sees."""

    def __init__(self) -> None:
        self._known: dict[str, VmConfig] = {}
        self._now: pytest.Item | None = None
        self._next: pytest.Item | None = None

    def ran(self, item: pytest.Item, config: VmConfig) -> None:
        """A test had a machine of its own of this configuration."""
        if (like := likeness(item)) is not None:  # else it asked while it ran, which nothing tells of others before
            self._known[like] = config

    def go_on_to(self, item: pytest.Item, following: pytest.Item | None) -> None:
        """A test is about to run, and this one will come after it."""
        self._now, self._next = item, following

    def expected(self) -> list[tuple[VmConfig, str]]:
        """The machines to start ahead: their configurations and names."""
        if self._next is None or (config := self._config_of(self._next)) is None:
            return []
        wanted = _usual(config) if config.prefetch == "auto" else int(config.prefetch)
        return [(config, item.name) for item in self._soon(wanted) if likeness(item) == likeness(self._next)]

    def coming(self) -> tuple[VmConfig, str] | None:
        """The next kind of machine among the tests that come soon, and for whom, if it is known: another than now."""
        if self._now is None or self._next is None:
            return None
        if "store_durations" in given_settings(self._next.config):  # where each kind's boot is to be seen for itself
            return None
        now = kind_of(wishes(self._now))
        for item in self._soon(_SOON):
            if now is not None and kind_of(wishes(item)) == now:
                continue
            config = known_config(item)
            if config is not None and config.prefetch != "0" and not _may_be_skipped(item):
                return (config, item.name) if _usual(config) else None
        return None

    def _soon(self, most: int) -> list[pytest.Item]:
        """The tests that come next, so many at most."""
        if self._next is None:
            return []
        if hasattr(self._next.config, "workerinput"):  # a worker of xdist knows one: others may have those after it
            return [self._next][:most]
        items = self._next.session.items
        start = items.index(self._next)
        return items[start : start + most]

    def _config_of(self, item: pytest.Item) -> VmConfig | None:
        if (like := likeness(item)) is None:
            return None
        return self._known.get(like) or known_config(item)


def _may_be_skipped(item: pytest.Item) -> bool:
    return item.get_closest_marker("skip") is not None or item.get_closest_marker("skipif") is not None


def known_config(item: pytest.Item) -> VmConfig | None:
    """That of a test's own machine or cluster, if nothing is in it that only a fixture can tell."""
    found = [wish for wish in _own(item) if wish.fixture in _MACHINES]
    return found[-1].config if found and found[-1].is_known else None


def likeness(item: pytest.Item) -> str | None:
    """Tests of which this is equal will want the same machine; None if a test wants none of its own."""
    return " and ".join(wish.likeness() for wish in _own(item)) or None


def _own(item: pytest.Item) -> list[Wish]:
    return [wish for wish in wishes(item) if wish.scope in ("function", None)]


def _usual(config: VmConfig) -> int:
    """Two at most, as more are not ready sooner, one cluster, and none where there is but one CPU."""
    several = 2 if config.cluster is None else 1
    return several if len(os.sched_getaffinity(0)) > 1 else 0
