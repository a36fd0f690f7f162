"""Owns how an image in an OCI registry is written: ``oci://registry/repository:tag@sha256:HEX``. Pure.

The grammar is that of the distribution specification: https://github.com/opencontainers/distribution-spec.
"""

import re
from dataclasses import dataclass, replace
from typing import Self
from urllib.parse import urlsplit

from pytest_readonly_vm.config.digest import Digest
from pytest_readonly_vm.config.image_url import INSECURE

SCHEME = "oci://"

_REGISTRY = re.compile(r"(?:\[[0-9a-fA-F:]+\]|[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?)(?::[0-9]{1,5})?")
_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*")
_LIKE_DIGEST = re.compile(r"[A-Za-z0-9]+[:=][0-9A-Fa-f]*$")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class OciReference:
    """An image in a registry. `str` is how it is written."""

    registry: str
    """The host, and its port after a colon if that is not 443."""
    repository: str
    tag: str | None
    """``latest``, if neither a tag nor a digest was written."""
    digest: Digest | None
    """Of the manifest or index. It decides, whatever the tag leads to by now."""
    insecure: bool
    """Whether http will do, as it does for a registry of this computer's loopback."""

    @classmethod
    def parse(cls, written: str) -> Self:
        """Read it.

        :raises ValueError: it is something else; the sentence has no password in it.
        """
        body, _, fragment = re.sub(f"^{SCHEME}", "", written, flags=re.IGNORECASE).partition("#")
        if fragment not in ("", INSECURE):
            raise ValueError(f"after # a registry's image has {INSECURE} or nothing; a digest comes after @")
        registry, _, rest = body.partition("/")
        path, at, digest = rest.partition("@")
        if "@" in registry or (at and not _LIKE_DIGEST.match(digest)):
            raise ValueError(
                "a registry's user and password are not written here; `docker login` or `podman login` keeps them; "
                "what is after @ is a digest like sha256:HEX"
            )
        repository, colon, tag = path.partition(":")
        if not _REGISTRY.fullmatch(registry):
            raise ValueError(f"{registry!r} is no registry; write {SCHEME}registry.example.org/repository:tag")
        if not _REPOSITORY.fullmatch(repository):
            raise ValueError(
                f"{repository!r} is no repository of a registry: names in lower case, with slashes between"
            )
        if colon and not _TAG.fullmatch(tag):
            raise ValueError(f"{tag!r} is no tag of an image")
        if not colon:
            tag = "" if at else "latest"
        return cls(registry, repository, tag or None, Digest.parse(digest) if at else None, fragment == INSECURE)

    def pinned(self, digest: Digest | None, *, says: str) -> Self:
        """The same with the digest that somebody else says. Who, is of no use: a registry has nothing else by it."""
        return replace(self, digest=digest)

    @property
    def is_of_loopback(self) -> bool:
        """Whether the registry runs on this computer."""
        host = urlsplit(f"//{self.registry}").hostname or ""
        return host in ("localhost", "::1") or bool(re.fullmatch(r"127(?:\.\d{1,3}){3}", host))

    @property
    def name(self) -> str:
        """The registry and the repository, without tag and digest."""
        return f"{SCHEME}{self.registry}/{self.repository}"

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.name}{tag}{f'@{self.digest}' if self.digest else ''}"
