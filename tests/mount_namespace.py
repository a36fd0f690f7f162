"""Owns the mount namespace in which a test mounts what nobody else sees."""

import functools
import subprocess

import pytest

_WAYS = (
    ("unshare", "--map-root-user", "--mount"),  # for every user, where a user may make namespaces
    ("unshare", "--mount"),  # for root in a chroot or a container, where nobody may make one of users
)


def own_mounts() -> tuple[str, ...]:
    """How a command begins that may mount, with the command to come after; where none may, the test is skipped."""
    if (way := _way()) is None:
        pytest.skip("needs a mount namespace")
    return way


@functools.cache
def _way() -> tuple[str, ...] | None:
    for way in _WAYS:
        if (
            subprocess.run([*way, "mount", "-t", "tmpfs", "none", "/tmp"], capture_output=True, check=False).returncode
            == 0
        ):
            return way
    return None
