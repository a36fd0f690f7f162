"""Owns the reading of an image by a web server in parts: each answer is proved to be of the same file. For the loop.

RFC 9110 has the words: section 14 for ranges, 8.8 for what a file is known by; RFC 9530 and 3230 for digests.
"""

import asyncio
import base64
import binascii
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from pytest_readonly_vm.config.network_image import NetworkImage
from pytest_readonly_vm.errors import DownloadError
from pytest_readonly_vm.host.loop import OUR_THREADS
from pytest_readonly_vm.printable import line
from pytest_readonly_vm.sources.download.tries import Interrupted
from pytest_readonly_vm.sources.download.web import Answer, Web
from pytest_readonly_vm.sources.download.web_login import WebLogin
from pytest_readonly_vm.sources.network.server import Changed, Refused, Told, Unanswered

T = TypeVar("T")

_LANES = 4
"""Requests at once."""
_LONGEST = 200
"""Characters of a header that are kept."""
_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")
_DIGEST = re.compile(r"(?:^|[,\s])sha-256=:?([A-Za-z0-9+/]{43}=):?", re.IGNORECASE)
_IN_SECONDS = (408, 425, 429, 500, 502, 503, 504)


class WebRanges:
    """A file of a web server's."""

    def __init__(self, image: NetworkImage, *, patience: float) -> None:
        """`patience` is in seconds, for each wait; raises `HostError` if urllib3 is not installed."""
        self._image = image
        self._patience = patience
        self._login = WebLogin(image.url)
        self._told: Told | None = None
        self._lanes = [_Lane(image, patience) for _ in range(_LANES)]
        self._free: asyncio.Queue[_Lane] = asyncio.Queue()
        for lane in self._lanes:
            self._free.put_nowait(lane)

    @property
    def connections(self) -> int:
        """See `ImageServer`: each answer tells of which file it is."""
        return 0

    async def look(self) -> Told:
        """See `ImageServer`."""
        found, _ = await self._asked(0, 1)
        self._told = self._told or found
        return found

    async def read(self, offset: int, length: int) -> bytes:
        """See `ImageServer`."""
        found, data = await self._asked(offset, length)
        if self._told is not None and (difference := self._told.difference(found)):
            raise Changed(difference)
        return data

    async def _asked(self, offset: int, length: int) -> tuple[Told, bytes]:
        lane = await self._free.get()
        work = lane.run(lambda web: self._part(web, offset, length))
        # It may be given up before it is done, and then the lane is not free yet.
        work.add_done_callback(lambda _: self._free.put_nowait(lane))
        work.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(work)

    def _part(self, web: Web, offset: int, length: int) -> tuple[Told, bytes]:
        headers = {"Range": f"bytes={offset}-{offset + length - 1}"}
        if self._told is not None and self._told.etag:
            headers["If-Match"] = self._told.etag
        deadline = time.monotonic() + self._patience
        try:
            with web.ask(self._login.url, credentials=self._login, headers=headers) as answer:
                told = self._told_by(answer, offset, length)
                data = bytearray()
                for piece in answer.pieces():
                    data += piece
                    if len(data) > length:
                        raise Unanswered("sends more than it was asked for")
                    if time.monotonic() > deadline and len(data) < length:
                        raise Unanswered(f"did not send {length} bytes within {self._patience:g} s")
        except Interrupted as error:
            raise Unanswered(str(error)) from None
        except DownloadError as error:
            raise Refused(f"cannot be had: {error}") from None
        if len(data) < length:
            raise Unanswered("ended the connection too early")
        return told, bytes(data)

    def _told_by(self, answer: Answer, offset: int, length: int) -> Told:
        if answer.status == 412 and self._told is not None:
            raise Changed(f"is another file by now: its ETag is not {self._told.etag} any more")
        if answer.status == 200:
            raise Refused("is not given in parts by its server (no Accept-Ranges); have it downloaded, by https://")
        if answer.status == 416:
            raise Changed("is shorter than it was") if self._told else Refused("is empty")
        if answer.status != 206:
            raise Refused(f"is refused: {line(answer.reason)[:_LONGEST]}")
        found = _RANGE.fullmatch(answer.headers.get("Content-Range", "").strip())
        encoding = answer.headers.get("Content-Encoding", "identity")
        if encoding != "identity" or found is None or int(found[1]) != offset:
            raise Refused("is given in parts that are not those which were asked for")
        size = int(found[3])
        if int(found[2]) != min(offset + length, size) - 1 or size < 1:
            raise Refused("is given in parts that are not those which were asked for")
        return Told(
            size,
            etag=_strong(_header(answer.headers, "ETag")),
            modified=_header(answer.headers, "Last-Modified"),
            sha256=_sha256(answer.headers),
        )

    def hang_up(self) -> None:
        """See `ImageServer`; each wait of a lane ends by itself."""

    def close(self) -> None:
        """See `ImageServer`."""
        for lane in self._lanes:
            lane.close()


class _Lane:
    """One connection and its thread."""

    def __init__(self, image: NetworkImage, patience: float) -> None:
        self._image = image
        self._patience = patience
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"{OUR_THREADS} ranges")
        self._web: Web | None = None

    def run(self, work: Callable[[Web], T]) -> asyncio.Future[T]:
        return asyncio.wrap_future(self._thread.submit(lambda: work(self._opened())))

    def _opened(self) -> Web:
        if self._web is None:
            self._web = Web(insecure=self._image.insecure, patience=self._patience).__enter__()
        return self._web

    def close(self) -> None:
        if self._web is not None:
            self._thread.submit(self._web.__exit__, None, None, None)
        self._thread.shutdown(wait=False)


def _header(headers: Mapping[str, str], name: str) -> str:
    return line(headers.get(name, ""))[:_LONGEST]


def _strong(etag: str) -> str:
    return etag if etag.startswith('"') else ""  # W/ says that the bytes may be others


def _sha256(headers: Mapping[str, str]) -> str:
    """That of the whole file, whatever part is sent."""
    for name in ("Repr-Digest", "Digest"):
        if found := _DIGEST.search(headers.get(name, "")):
            try:
                return base64.b64decode(found[1], validate=True).hex()
            except binascii.Error:
                return ""
    return ""
