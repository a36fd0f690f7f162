"""Owns parcels in a folder behind a web server: it can be read, and nothing is put there."""

import contextlib
import re
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import urlsplit, urlunsplit

from pytest_readonly_vm.config.image_url import shown_url
from pytest_readonly_vm.errors import DownloadError, RemoteError
from pytest_readonly_vm.sources.download.tries import Interrupted, Tries
from pytest_readonly_vm.sources.download.web import Answer, Web
from pytest_readonly_vm.sources.download.web_login import WebLogin

T = TypeVar("T")

_MOST_TRIES = 2
_LENGTH = re.compile(r"[0-9]{1,18}")


class WebFiles:
    """`layout.Files` of a web server. By http as well, as what is not signed is not used."""

    is_own = False
    distrust = ""

    def __init__(self, url: str) -> None:
        """:raises HostError: urllib3 is not installed."""
        self.name = shown_url(url)
        self._login = WebLogin(url)
        self._open = contextlib.ExitStack()
        self._web = self._open.enter_context(Web(insecure=urlsplit(url).scheme == "http"))

    def read(self, path: str, most: int) -> bytes | None:
        def take(answer: Answer) -> bytes:
            found = bytearray()
            for piece in answer.pieces():
                found += piece
                if len(found) > most:
                    break
            return bytes(found)

        return self._asked("GET", path, take)

    def size(self, path: str) -> int | None:
        def take(answer: Answer) -> int:
            length = answer.headers.get("Content-Length", "")
            return int(length) if _LENGTH.fullmatch(length) else -1

        return self._asked("HEAD", path, take)

    def write(self, path: str, data: bytes) -> None:
        raise RemoteError(f"{self.name}: nothing can be put there: a web server is for reading alone")

    def written(self, path: str) -> float | None:
        return None

    def remove(self, path: str) -> None:
        raise RemoteError(f"{self.name}: nothing can be removed there: a web server is for reading alone")

    def names(self, folder: str) -> list[str] | None:
        return None

    def close(self) -> None:
        self._open.close()

    def _asked(self, method: str, path: str, take: Callable[[Answer], T]) -> T | None:
        parts = urlsplit(self._login.url)
        url = urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{path}"))
        tries = Tries(url, most=_MOST_TRIES)
        try:
            while True:
                try:
                    with self._web.ask(url, credentials=self._login, method=method) as answer:
                        if answer.status in (404, 410):
                            return None
                        if answer.status != 200:
                            raise RemoteError(f"{shown_url(url)}: the server answers {answer.reason}")
                        return take(answer)
                except Interrupted as error:
                    tries.wait_after(error)
        except DownloadError as error:
            raise RemoteError(str(error)) from None
