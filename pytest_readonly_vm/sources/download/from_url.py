"""Owns the way from the URL of an image to the file: which digest it has to have, and who says so.

The digest is the one written after ``#``, or else the strongest that a file of checksums beside the image has.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from pytest_readonly_vm.config.digest import ALGORITHMS, Digest
from pytest_readonly_vm.config.image_url import INSECURE, ImageUrl, shown_url
from pytest_readonly_vm.config.values import nearest
from pytest_readonly_vm.errors import DownloadError
from pytest_readonly_vm.sources.download import checksums
from pytest_readonly_vm.sources.download.located import Downloaded, Located
from pytest_readonly_vm.sources.download.part_file import Version
from pytest_readonly_vm.sources.download.transfer import Progress, Wanted, refusal, transferred, version_of
from pytest_readonly_vm.sources.download.tries import Interrupted, Tries
from pytest_readonly_vm.sources.download.web import Web
from pytest_readonly_vm.sources.download.web_login import WebLogin

_ABSENT = (403, 404, 410)
"""What servers say of a file that is not there; stores of objects say 403."""
_NO_HEAD = (403, 405, 501)


def locate(image: ImageUrl, *, algorithm: str | None = None, warn: Callable[[str], object]) -> Located:
    """What is to be known of an image without downloading it.

    :param algorithm: of what kind its digest is to be, for one that is compared with another; then it has none where
        nobody says that.
    :param warn: given a sentence for what was asked for and is not safe.
    :raises DownloadError: it cannot be had, or nobody says which digest it has.
    :raises HostError: there is no urllib3.
    """
    with Web(insecure=image.insecure) as web:
        login = WebLogin(image.url)
        digest, says = _digest(web, image, login, warn, algorithm)
        version = _version(web, login)
        return Located(digest, says, version.size, version)


@contextlib.contextmanager
def downloaded(
    image: ImageUrl,
    folder: Path,
    *,
    limit: int,
    progress: Progress,
    tell: Callable[[str], object],
    warn: Callable[[str], object],
) -> Iterator[Downloaded]:
    """The file as it is published, for as long as the context lasts; see `transferred`, also for what is raised."""
    with Web(insecure=image.insecure) as web:
        login = WebLogin(image.url)
        digest, says = _digest(web, image, login, warn)
        wanted = Wanted(url=login.url, name=image.name or str(image), digest=digest, says=says, limit=limit)
        with transferred(web, wanted, folder, credentials=login, progress=progress, tell=tell) as found:
            located = Located(digest, says, found.size, found.version)
            yield Downloaded(found.path, found.sha256, located)


def _digest(
    web: Web, image: ImageUrl, login: WebLogin, warn: Callable[[str], object], algorithm: str | None = None
) -> tuple[Digest | None, str]:
    if image.url.startswith("http:"):
        warn(f"{image} comes by http, so anybody on the way can read it{'' if image.digest else ', and change it'}")
    if image.digest is not None:
        return image.digest, image.says
    algorithms = (algorithm,) if algorithm else ALGORITHMS
    lacking = ""
    for name in checksums.names_beside(image.name) if image.name else ():
        url = image.beside(name)
        if (text := _text(web, url, login)) is None:
            continue
        try:
            digest = checksums.find(text, image.name, is_its_own=name.startswith(image.name), algorithms=algorithms)
        except ValueError as error:
            raise DownloadError(f"{shown_url(url)} {error}") from None
        if digest is not None:
            return digest, shown_url(url)
        if known := checksums.names(text):
            lacking = lacking or f"{shown_url(url)} has no digest of {image.name}{nearest(image.name, known)}"
    if algorithm:
        return None, ""
    lacking = lacking or (
        f"there is no file of checksums beside {image}, such as SHA512SUMS or {image.name}.sha256"
        if image.name
        else f"{image} ends without the name of a file, of which there could be a digest"
    )
    if image.insecure:
        warn(f"{image} is used without a digest, so nobody knows which file it is: {lacking}")
        return None, ""
    raise DownloadError(
        f"{lacking}; write the digest behind the URL, as in #sha256=HEX, or #{INSECURE} to do without one"
    )


def _text(web: Web, url: str, login: WebLogin) -> str | None:
    """A file of checksums, or None if there is none."""
    tries = Tries(url)
    while True:
        try:
            with web.ask(url, credentials=login) as answer:
                if answer.status == 200:
                    return answer.text(checksums.LARGEST).decode(errors="replace")
                if answer.status in _ABSENT:
                    return None
                raise DownloadError(refusal(answer))
        except Interrupted as error:
            tries.wait_after(error)


def _version(web: Web, login: WebLogin) -> Version:
    tries = Tries(login.url)
    method = "HEAD"
    while True:
        try:
            with web.ask(login.url, credentials=login, method=method) as answer:
                if answer.status == 200:
                    return version_of(answer)
                if method == "GET" or answer.status not in _NO_HEAD:
                    raise DownloadError(refusal(answer))
                method = "GET"  # which signed URLs are often for alone; the body is not read
        except Interrupted as error:
            tries.wait_after(error)
