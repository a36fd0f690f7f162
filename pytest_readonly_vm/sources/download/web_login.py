"""Owns by which user and password a web server is asked: those of the URL, or those that ``~/.netrc`` has for the host.

The file is that of ftp(1), as curl and Python's own libraries read it; ``NETRC`` in the environment names another.
"""

import base64
import netrc
import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit


class WebLogin:
    """The credentials for a URL, and for where it redirects to; see `web.Credentials`."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.url = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
        """The URL without them."""
        self._origin = _origin(parts)
        self._own = basic(unquote(parts.username), unquote(parts.password or "")) if parts.username else None
        self._netrc = _read_netrc()

    def headers(self, url: str) -> Mapping[str, str]:
        """Those of the URL go to its own host, scheme and port only."""
        parts = urlsplit(url)
        if self._own is not None and _origin(parts) == self._origin:
            return {"Authorization": self._own}
        known = self._netrc.authenticators(parts.hostname or "") if self._netrc is not None else None
        return {"Authorization": basic(known[0] or "", known[2] or "")} if known else {}

    def take_challenge(self, url: str, challenge: str) -> bool:
        """There is nothing else to be said."""
        return False


def basic(user: str, password: str) -> str:
    """The value of ``Authorization`` by RFC 7617."""
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode(errors='surrogateescape')).decode()}"


def _origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme, parts.hostname, parts.port or {"https": 443, "http": 80}.get(parts.scheme)


def _read_netrc() -> netrc.netrc | None:
    try:
        return netrc.netrc(os.environ.get("NETRC") or Path.home() / ".netrc")
    except (OSError, RuntimeError, UnicodeDecodeError, netrc.NetrcParseError):
        return None  # its own sentences have words of the file in them, and others read it in the same way
