"""Owns that our modules are imported as any library's are, where pytest would rewrite them.

pytest rewrites the asserts of all that a plugin's distribution has in it, and keeps bytecode of its own of that. Where
bytecode is not written, as in most images of containers, each run, and each worker of xdist, would compile 20,000 lines
anew, and what pip has compiled is of no use. Our asserts are for type checkers.
"""

import contextlib
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

import pytest

_OURS = f"{__name__.partition('.')[0]}."


class _Finder:
    """What Python's own finder finds, of our modules only."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return PathFinder.find_spec(name, path, target) if name.startswith(_OURS) else None


def import_unrewritten(config: pytest.Config) -> None:
    """From now on and as long as this pytest runs; its own finder, the first so far, is in its place as long."""
    finder = _Finder()
    sys.meta_path.insert(0, finder)

    def remove() -> None:
        with contextlib.suppress(ValueError):  # somebody has set back the list to what it was before
            sys.meta_path.remove(finder)

    config.add_cleanup(remove)
