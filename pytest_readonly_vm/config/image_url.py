"""Owns how the URL of an image is written: its digest after ``#``, and what of it may be shown. Pure."""

import re
from dataclasses import dataclass, field, replace
from typing import Self
from urllib.parse import SplitResult, quote, unquote, urlsplit, urlunsplit

from pytest_readonly_vm.config.digest import Digest

INSECURE = "insecure"
"""The word after ``#`` by which somebody asks for what is refused otherwise: http, and a file without a digest."""


_SLASH_IN_PASSWORD = re.compile(r".*:.*@", re.DOTALL)
"""The beginning of a path that is the rest of user and password, in which somebody wrote a slash as it is."""


@dataclass(frozen=True, slots=True)
class ImageUrl:
    """Where an image is on the web. `str` is what may be shown of it: no user, password, query."""

    url: str = field(repr=False)
    """All that is asked for, without what came after ``#``; may have a password in it."""
    digest: Digest | None
    """That of the file as it is published, if somebody wrote it here."""
    insecure: bool
    says: str = field(default="what is written after #", compare=False)
    """Who says the digest, for people."""

    @classmethod
    def parse(cls, written: str) -> Self:
        """Read ``https://…``, ``https://…#sha256=HEX``, ``http://…#sha256=HEX&insecure``.

        :raises ValueError: it is something else; the sentence has no password in it.
        """
        if any(character <= " " or character == "\x7f" for character in written):
            raise ValueError("a URL has no spaces and no control characters; write %20 for a space")
        try:
            parts = urlsplit(written)
            host, _port = parts.hostname, parts.port
        except ValueError:  # whose words may have a part of a password in them
            raise ValueError("the URL cannot be read: its host or its port is none") from None
        if "@" in parts.fragment:  # so the host is the beginning of a password
            raise ValueError("the URL cannot be read: a # in its user or password is written %23")
        url = urlunsplit(parts._replace(fragment=""))
        name = shown_url(url)
        if parts.scheme == "file":
            raise ValueError(f"{name}: a file of this computer is given by its path: {unquote(parts.path)}")
        if parts.scheme not in ("https", "http"):
            raise ValueError(f"{name}: images come by https://, not by {parts.scheme}://")
        if not host:
            raise ValueError("the URL names no host")  # what follows may be anything, a password too
        digest, insecure = read_fragment(parts.fragment)
        if parts.scheme == "http" and not insecure:
            raise ValueError(
                f"{name}: anybody on the way can read and change what comes by http; write https://, "
                f"or put {'&' if parts.fragment else '#'}{INSECURE} at the end"
            )
        return cls(url, digest, insecure)

    def pinned(self, digest: Digest | None, *, says: str) -> Self:
        """The same with the digest that somebody else says; `says` is who, for people."""
        return replace(self, digest=digest, says=says)

    @property
    def name(self) -> str:
        """The file's name there, or nothing, if the path ends with a slash."""
        return unquote(urlsplit(self.url).path.rpartition("/")[2])

    @property
    def secret(self) -> str:
        """What of it may be a secret, in words; nothing, if there is no such part."""
        parts = urlsplit(self.url)
        there = {"user and password": "@" in parts.netloc, "what is behind the ?": bool(parts.query)}
        return ", and ".join(name for name, is_there in there.items() if is_there)

    def beside(self, name: str) -> str:
        """The URL of another file in the same folder, without user and password."""
        parts = urlsplit(self.url)
        path = f"{parts.path.rpartition('/')[0]}/{quote(name)}"
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], path, "", ""))

    def __str__(self) -> str:
        return shown_url(self.url)


def shown_url(url: str) -> str:
    """A URL without what may be secret in it: user, password, and the query, which often has a signature or token.

    Of what cannot be read as one, no more than the scheme.
    """
    try:
        parts: SplitResult = urlsplit(url)
    except ValueError:
        return f"{url.partition('://')[0]}://…" if "://" in url else "…"
    path = _SLASH_IN_PASSWORD.sub("/…@", parts.path)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], path, "…" if parts.query else "", ""))


def read_fragment(written: str) -> tuple[Digest | None, bool]:
    """What is written after ``#``: a digest, and whether the word `INSECURE` is.

    :raises ValueError: it is something else, or there are two digests.
    """
    digest, insecure = None, False
    for word in filter(None, written.split("&")):
        if word == INSECURE:
            insecure = True
        elif digest is not None:
            raise ValueError(f"two digests are after #: {digest} and {word}")
        elif "=" in word or ":" in word:
            digest = Digest.parse(word)
        else:
            raise ValueError(f"after # a URL has sha256=HEX, sha512=HEX or {INSECURE}, not {word!r}")
    return digest, insecure
