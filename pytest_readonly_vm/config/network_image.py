"""Owns how an image is named that stays on the network and is read there: by NBD, or by HTTP with ranges. Pure.

NBD's URLs are those of its own specification: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/uri.md
"""

from dataclasses import dataclass, field, replace
from typing import Self
from urllib.parse import parse_qs, unquote, urlsplit

from pytest_readonly_vm.config.digest import Digest
from pytest_readonly_vm.config.image_url import INSECURE, ImageUrl, read_fragment, shown_url

RANGES = "ranges+"
"""What is put before the URL of a web server's file that is not to be downloaded."""

SCHEMES = ("nbd+unix", "nbd", "nbds", f"{RANGES}https", f"{RANGES}http")
_PORT = 10809


@dataclass(frozen=True, slots=True)
class NetworkImage:
    """Where an image is that stays there. `str` is what may be shown of it: no user, password, query."""

    url: str = field(repr=False)
    """All of it, without what came after ``#``; of a web server, without the word before."""
    digest: Digest | None
    """That of the whole image, if somebody wrote it here."""
    insecure: bool
    says: str = field(default="what is written after #", compare=False)
    """Who says the digest, for people."""

    @classmethod
    def parse(cls, written: str) -> Self:
        """Read ``nbd+unix:///EXPORT?socket=PATH``, ``nbds://HOST[:PORT]/EXPORT``, ``ranges+https://…``, each with
        ``#sha256=HEX`` behind it or not.

        :raises ValueError: it is something else; the sentence has no password in it.
        """
        if written.lower().startswith(RANGES):
            try:
                found = ImageUrl.parse(written[len(RANGES) :])
            except ValueError as error:
                raise ValueError(f"{RANGES}{error}" if "://" in str(error)[:8] else str(error)) from None
            return cls(found.url, found.digest, found.insecure)
        if any(character <= " " or character == "\x7f" for character in written):
            raise ValueError("a URL has no spaces and no control characters; write %20 for a space")
        try:
            parts = urlsplit(written)
            host, _port = parts.hostname, parts.port
        except ValueError:
            raise ValueError("the URL cannot be read: its host or its port is none") from None
        name = shown_url(written.partition("?")[0].partition("#")[0])
        if "@" in parts.netloc:
            raise ValueError("NBD knows no user and no password; leave out what is before the @")
        digest, insecure = read_fragment(parts.fragment)
        if parts.scheme == "nbd+unix":
            sockets = parse_qs(parts.query).get("socket", [])
            if parts.netloc or len(sockets) != 1 or not sockets[0].startswith("/"):
                raise ValueError(f"{name}: write nbd+unix:///EXPORT?socket=PATH, with the path of a socket from /")
        elif not host:
            raise ValueError("the URL names no host")
        elif "?" in written.partition("#")[0]:
            raise ValueError(f"{name}: nothing is known that could be said behind the ? of {parts.scheme}://")
        elif parts.scheme == "nbd" and not insecure and not _is_here(host):
            raise ValueError(
                f"{name}: anybody on the way can read and change what comes by nbd; write nbds://, "
                f"or put {'&' if parts.fragment else '#'}{INSECURE} at the end"
            )
        return cls(written.partition("#")[0], digest, insecure)

    def pinned(self, digest: Digest | None, *, says: str) -> Self:
        """The same with the digest that somebody else says; `says` is who, for people."""
        return replace(self, digest=digest, says=says)

    @property
    def is_on_the_web(self) -> bool:
        return self.url.lower().startswith("http")

    @property
    def is_encrypted(self) -> bool:
        """Whether it comes by TLS."""
        return urlsplit(self.url).scheme in ("https", "nbds")

    @property
    def export(self) -> str:
        """What an NBD server has it as; empty for what it has without a name."""
        return unquote(urlsplit(self.url).path[1:])

    @property
    def socket(self) -> str | None:
        """The path of a local NBD server's socket."""
        return (
            parse_qs(urlsplit(self.url).query).get("socket", [None])[0]
            if self.url.lower().startswith("nbd+unix")
            else None
        )

    @property
    def host(self) -> tuple[str, int]:
        """Of an NBD server that is reached by TCP: its name and port."""
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or _PORT

    @property
    def name(self) -> str:
        """The last part, as the name of a path."""
        return unquote(urlsplit(self.url).path.rpartition("/")[2])

    @property
    def secret(self) -> str:
        """What of it may be a secret, in words; nothing, if there is no such part."""
        return ImageUrl(self.url, None, insecure=True).secret if self.is_on_the_web else ""

    def __str__(self) -> str:
        if self.is_on_the_web:
            return f"{RANGES}{shown_url(self.url)}"
        return self.url  # which has nothing secret in it, and a socket where others have what is


def _is_here(host: str) -> bool:
    import ipaddress  # which few need

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
