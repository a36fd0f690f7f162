"""Owns where the suite keeps frozen guests, so that one test boots a Debian and the others start from copies of it.

Beside the test guests, not in the user's own cache: nothing is taken over that another state of the plugin has made.
"""

from pathlib import Path

import pytest_readonly_vm
from tests.guests import cache

_FOLDER = "entries"


def templates() -> Path:
    """A folder for ``--vm-cache``, the same for all processes of the suite until a line of the plugin changes."""
    package = Path(pytest_readonly_vm.__file__).parent
    key = cache.key(recipe=sorted(package.rglob("*.py")))
    # Below, as the guests' folders are open to all, and that of a template must not be.
    return cache.get("templates", key=key, build=lambda folder: (folder / _FOLDER).mkdir(mode=0o700)) / _FOLDER
