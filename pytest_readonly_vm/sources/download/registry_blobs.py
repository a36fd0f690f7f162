"""Owns what is put into a registry and taken out of it as it is: blobs and manifests of a repository, in memory.

The protocol is https://github.com/opencontainers/distribution-spec/blob/main/spec.md#push. A blob is there as a whole
from the moment on at which its upload is closed with its digest, which the registry compares.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TypeVar
from urllib.parse import urljoin, urlsplit

from pytest_readonly_vm.config.image_url import shown_url
from pytest_readonly_vm.errors import DownloadError
from pytest_readonly_vm.sources.download.registry import MANIFESTS, Registry
from pytest_readonly_vm.sources.download.tries import Interrupted, Tries
from pytest_readonly_vm.sources.download.web import Answer, Web

T = TypeVar("T")

_MOST_TRIES = 2  # whoever waits could have booted a guest meanwhile
_LARGEST_ANSWER = 4 << 20
_MOST_PAGES = 200
_NEXT = re.compile(r'<([^<>]+)>\s*;\s*rel="?next"?', re.IGNORECASE)


class RegistryBlobs:
    """The repository of a `Registry`. All raise `DownloadError`, within a bounded time."""

    def __init__(self, web: Web, registry: Registry) -> None:
        self._web = web
        self._registry = registry

    def has_blob(self, digest: str) -> bool:
        """Whether a blob is there."""
        url = self._registry.url(f"blobs/{digest}")
        return self._tried(url, partial(self._ask, "HEAD", url, self._is_there))

    def blob(self, digest: str, size: int) -> bytes | None:
        """A blob; None if it is not there. No more is read than a little beyond its size."""

        def take(answer: Answer) -> bytes | None:
            return _upto(answer.pieces(), size) if self._is_there(answer) else None

        url = self._registry.url(f"blobs/{digest}")
        return self._tried(url, partial(self._ask, "GET", url, take))

    def put_blob(self, digest: str, data: bytes) -> None:
        """Have a blob there."""
        begun = self._registry.url("blobs/uploads/")

        def place(answer: Answer) -> str:
            self._require(answer, 202)
            return self._place(begun, answer.headers.get("Location", ""))

        def put() -> None:  # an upload that broke is not gone on with: it is small
            url = self._ask("POST", begun, place, body=b"")
            url = f"{url}{'&' if urlsplit(url).query else '?'}digest={digest}"
            kind = {"Content-Type": "application/octet-stream"}
            self._ask("PUT", url, lambda answer: self._require(answer, 201), kind, data)

        self._tried(begun, put)

    def manifest(self, tag: str, most: int) -> bytes | None:
        """What a tag leads to; None if there is no such."""

        def take(answer: Answer) -> bytes | None:
            return answer.text(most) if self._is_there(answer) else None

        url = self._registry.url(f"manifests/{tag}")
        return self._tried(url, partial(self._ask, "GET", url, take, {"Accept": ", ".join(MANIFESTS)}))

    def put_manifest(self, tag: str, body: bytes) -> None:
        """Have a tag lead to a manifest whose blobs are there."""
        kind = {"Content-Type": MANIFESTS[0]}
        url = self._registry.url(f"manifests/{tag}")
        self._tried(url, partial(self._ask, "PUT", url, lambda answer: self._require(answer, 201), kind, body))

    def tags(self, text: Callable[[bytes], list[str]]) -> Iterator[str]:
        """All tags, page by page, as `text` reads a page; none, where there is no such repository yet."""
        url = self._registry.url("tags/list?n=1000")

        def take(answer: Answer) -> tuple[bytes, str]:
            there = self._is_there(answer)
            return (answer.text(_LARGEST_ANSWER), answer.headers.get("Link", "")) if there else (b"", "")

        for _ in range(_MOST_PAGES):
            page, link = self._tried(url, partial(self._ask, "GET", url, take))
            if page:
                yield from text(page)
            if (found := _NEXT.search(link)) is None:
                return
            url = self._place(url, found[1])

    def _tried(self, url: str, ask: Callable[[], T]) -> T:
        tries = Tries(url, most=_MOST_TRIES)
        while True:
            try:
                return ask()
            except Interrupted as error:
                tries.wait_after(error)

    def _ask(
        self,
        method: str,
        url: str,
        take: Callable[[Answer], T],
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> T:
        with self._web.ask(url, credentials=self._registry, method=method, headers=headers, body=body) as answer:
            return take(answer)

    def _is_there(self, answer: Answer) -> bool:
        if answer.status == 404:
            return False
        self._require(answer, 200)
        return True

    def _require(self, answer: Answer, status: int) -> None:
        if answer.status != status:
            raise DownloadError(self._registry.refusal(answer))

    def _place(self, url: str, location: str) -> str:
        """Where a registry sends whoever goes on; not from https to what anybody can read."""
        try:
            found = urljoin(url, location)
            parts = urlsplit(found)
            host = parts.hostname
        except ValueError:
            host = None
        if not location or not host or parts.scheme not in {"https", urlsplit(url).scheme}:
            raise DownloadError(f"{shown_url(url)} sends whoever asks on to what is no URL that can be used")
        return found


def _upto(pieces: Iterator[bytes], size: int) -> bytes:
    found = bytearray()
    for piece in pieces:
        found += piece
        if len(found) > size:
            break
    return bytes(found)
