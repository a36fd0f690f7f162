"""Owns which keys of SSH servers are believed: those that this user's ssh believes. The only importer of paramiko."""

import base64
import hashlib
from pathlib import Path
from typing import Any

import paramiko

from pytest_readonly_vm.errors import RemoteError


class KnownHosts(paramiko.MissingHostKeyPolicy):  # type: ignore[misc]
    """What fsspec's client asks about the key of a server. That knows no keys by itself, so it asks about each."""

    def missing_host_key(self, client: Any, hostname: str, key: Any) -> None:
        """:raises RemoteError: it is not in a file of known hosts, before anything is said to that server."""
        known, files = paramiko.HostKeys(), _files()
        for path in files:
            try:
                known.load(str(path))
            except (OSError, UnicodeError):  # ssh does without as well
                continue
        if known.check(hostname, key):
            return
        client.close()
        said = base64.b64encode(hashlib.sha256(key.asbytes()).digest()).decode().rstrip("=")
        others = known.lookup(hostname)
        has = f"{files[0]} has other keys of it" if others else f"{files[0]} does not have it"
        raise RemoteError(
            f"{hostname} is not believed to be who it says: its key is {key.get_name()} SHA256:{said}, and {has}; "
            "connect once by ssh, which asks whether it is right"
        )


def _files() -> tuple[Path, ...]:
    return Path("~/.ssh/known_hosts").expanduser(), Path("/etc/ssh/ssh_known_hosts")
