"""Owns what workers on other hosts are to know of earlier runs: which tests failed, for ``--lf`` and the like.

pytest asks its cache for that, in the checkout, where a worker elsewhere would find another one, or none, and run
other tests than were asked for.
"""

import json
from typing import Any

import pytest

REMEMBERED = "readonly_vm_remembered"
"""Key of a worker's input."""

_OPTIONS = ("lf", "failedfirst", "newfirst")
_KEYS = ("cache/lastfailed", "cache/nodeids")


def remembered(config: pytest.Config) -> str:
    """What the controller's cache has of what such workers ask for, as JSON: names need not be UTF-8."""
    cache = getattr(config, "cache", None)
    if cache is None or not any(config.getoption(name, False) for name in _OPTIONS):
        return "{}"
    return json.dumps({key: found for key in _KEYS if (found := cache.get(key, None)) is not None})


def remember(config: pytest.Config, given: str) -> None:
    """Have a worker's pytest go by that."""
    if getattr(config, "cache", None) is None or not any(config.getoption(name, False) for name in _OPTIONS):
        return
    from _pytest.cacheprovider import LFPlugin, NFPlugin  # which asked when they were made

    config.cache = _Given(config.cache, json.loads(given))  # type: ignore[assignment]
    for name, make in (("lfplugin", LFPlugin), ("nfplugin", NFPlugin)):
        if config.pluginmanager.hasplugin(name):
            for one in (name, f"{name}-collwrapper"):  # which the first of them has registered
                if config.pluginmanager.hasplugin(one):
                    config.pluginmanager.unregister(name=one)
            config.pluginmanager.register(make(config), name)


class _Given:
    """pytest's cache, but for what was given."""

    def __init__(self, cache: Any, given: dict[str, Any]) -> None:
        self._cache = cache
        self._given = given

    def get(self, key: str, default: Any) -> Any:
        return self._given.get(key, default) if key in _KEYS else self._cache.get(key, default)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)
