"""Owns the use of frozen guests that other computers have made, from where they are shared.

Nothing of it is needed: what cannot be had is said once, and the guest boots.
"""

import time
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.errors import ConfigurationError, HostError, VmError
from pytest_readonly_vm.host.os_errors import explain
from pytest_readonly_vm.start.cache import TemplateCache
from pytest_readonly_vm.start.recipe import Recipe
from pytest_readonly_vm.start.travel import RECIPE, fetch

if TYPE_CHECKING:
    from pytest_readonly_vm.remote.parcel import Manifest
    from pytest_readonly_vm.remote.remote_cache import RemoteCache

_MOST_ASKED = 5
"""Those of the same guest of which it is told why they do not fit."""


class Elsewhere:
    """The place that a configuration names. Several threads may ask at once."""

    def __init__(self, config: VmConfig, tell: Callable[[str], None]) -> None:
        """`tell` is given sentences for people; each is said once."""
        self._config = config
        self._tell = tell
        self._told: set[str] = set()
        self._is_given_up = False

    def tell(self, sentence: str) -> None:
        if sentence not in self._told:
            self._told.add(sentence)
            self._tell(sentence)

    def fetch(self, recipe: Recipe, cache: TemplateCache) -> None:
        """Put what is made by this recipe into the cache, if it is there.

        :raises ConfigurationError: there can be no such place.
        :raises HostError: a package is missing that it takes.
        """
        if self._is_given_up:
            return
        try:
            self._fetch(recipe, cache)
        except (ConfigurationError, HostError) as error:
            raise type(error)(f"{self._config.origin('cache_from')}: {error}") from None
        except (VmError, OSError) as error:
            # Whoever does not answer once would be waited for at each template.
            self._is_given_up = True
            why = str(error) if isinstance(error, VmError) else explain(error) or str(error)
            self.tell(f"no frozen guest is taken from {self._place}: {why}")

    def _fetch(self, recipe: Recipe, cache: TemplateCache) -> None:
        manifest = self._remote.find(recipe.name)
        if manifest is None:
            self._tell_why_none_fits(recipe)
            return
        if _recipe(manifest) != recipe.told():
            raise VmError(f"{recipe.name} is made of something else than its name says")
        began = time.monotonic()
        fetch(self._remote, manifest, recipe, cache)
        size, seconds = manifest.size >> 20, time.monotonic() - began
        self._tell(f"a frozen guest of {size} MiB came from {self._place} in {seconds:.1f} s")

    def _tell_why_none_fits(self, recipe: Recipe) -> None:
        alike = [name for name in self._keys if name.startswith(recipe.guest_name)]
        for name in alike[:_MOST_ASKED]:
            manifest = self._remote.find(name)
            misfit = Recipe.read(manifest.facts[RECIPE]).misfit(recipe) if manifest else None
            if misfit:
                self.tell(f"the frozen guest {name[:12]} of {self._place} does not fit: {misfit}; so it boots here")

    @cached_property
    def _remote(self) -> "RemoteCache":
        from pytest_readonly_vm.remote.targets import open_remote  # which other runs are not to pay for

        config = self._config
        assert config.cache_from is not None
        return open_remote(config.cache_from, signers=config.cache_signers, unsigned=config.cache_unsigned)

    @cached_property
    def _keys(self) -> list[str]:
        return self._remote.keys()

    @property
    def _place(self) -> str:
        return f"{self._config.cache_from} (from {self._config.origin('cache_from')})"


def _recipe(manifest: "Manifest") -> object:
    try:
        return Recipe.read(manifest.facts[RECIPE]).told()
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
