"""Owns the guests that the tests boot, and how they are built; knows nothing of the plugin.

`bootsector` writes guests of 512 bytes. `tiny_linux()`, that with servers or with databases, and `debian()` build
theirs from the host's package archive when the cache does not have them; ``python -m tests.guests`` does the same from
a shell.
"""

from __future__ import annotations

from tests.guests import bootsector
from tests.guests.debian import debian
from tests.guests.tiny_databases import tiny_with_databases
from tests.guests.tiny_linux import TinyLinux, tiny_linux
from tests.guests.tiny_servers import tiny_with_servers
from tests.guests.tools import BuildError

__all__ = ["BuildError", "TinyLinux", "bootsector", "debian", "tiny_linux", "tiny_with_databases", "tiny_with_servers"]
