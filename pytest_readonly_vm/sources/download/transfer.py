"""Owns how one file comes from a URL into a folder: by one process at a time, in as many parts as it takes, compared.

Whoever comes second waits. A kill at any point leaves what the next run goes on with; see `part_file`.
"""

import contextlib
import hashlib
import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from pytest_readonly_vm.config.digest import Digest
from pytest_readonly_vm.config.image_url import shown_url
from pytest_readonly_vm.errors import DownloadError, HostError
from pytest_readonly_vm.host.locks import holder_of, is_stopped, try_lock, wait_for_lock
from pytest_readonly_vm.host.os_errors import explain
from pytest_readonly_vm.sources.download.part_file import PartFile, Version
from pytest_readonly_vm.sources.download.tries import Interrupted, Tries
from pytest_readonly_vm.sources.download.web import Answer, Credentials, Web

Progress = Callable[[str, int, int | None], object]
"""Told what is transferred, how many bytes have gone, and how many there are if that is known."""

STOPPED_PATIENCE = 3.0
"""Seconds for which a process is waited for that stands still, before that is an error."""

_ENOUGH_PROGRESS = 1 << 20
"""Bytes further than ever before, after which failures are counted anew: so a file that never comes whole ends, too."""
_STALE = 14 * 86400.0
# What a server says is a stranger's: numbers have bounds, and what is sent back to it is fit for a header.
_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")
_LENGTH = re.compile(r"[0-9]{1,18}")
_ETAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e]*"')
_TIME = re.compile(r"[\x20-\x7e]+")
_HASHED_ALWAYS = "sha256"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A file that is wanted from a URL."""

    url: str = field(repr=False)
    name: str
    """For people; it never names a file."""
    digest: Digest | None
    """Which it has to have."""
    says: str
    """Who says so: ``SHA256SUMS``, ``the manifest``."""
    size: int | None = None
    """Bytes that it has to have, where that is known."""
    limit: int
    """Bytes that it may have at most."""

    @property
    def key(self) -> str:
        """What its files in the folder are called by: no part of the URL, in which there may be secrets."""
        return hashlib.sha256(self.url.encode(errors="surrogateescape")).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Transferred:
    """A file that is here as a whole, and is what it has to be."""

    path: Path
    size: int
    sha256: Digest
    version: Version
    """As the server had it."""


@contextlib.contextmanager
def transferred(
    web: Web,
    wanted: Wanted,
    folder: Path,
    *,
    credentials: Credentials,
    progress: Progress,
    tell: Callable[[str], object],
) -> Iterator[Transferred]:
    """A file from a URL, for as long as the context lasts; until then no other process has it.

    If it is not moved or removed in there it stays, and whoever asks for the URL next has it without a transfer, if it
    has the digest then wanted. After an error in there it goes; after an interrupt it stays.

    :param folder: where it comes to lie; a private one, that outlives runs.
    :param progress: told in the waiting process, too.
    :param tell: given a sentence when there is waiting for another process.
    :raises DownloadError: it cannot be had, or is not what it should be; nothing of it is left.
    :raises OutOfSpace: the folder has no room for it; nothing of it is left.
    :raises HostError: another process is at it and stands still, or the folder is of no use.
    """
    with _lock(wanted, folder, progress, tell):
        _sweep(folder)
        algorithms = {_HASHED_ALWAYS} | ({wanted.digest.algorithm} if wanted.digest else set())
        with PartFile(folder, wanted.key, what=wanted.name, algorithms=tuple(algorithms)) as part:
            _Transfer(web, wanted, part, credentials, progress).complete()
            found = Transferred(part.finish(), part.size, part.digests[_HASHED_ALWAYS], part.version)
            try:
                yield found
            except Exception:
                part.discard()
                raise
            finally:
                part.forget_what_was_taken()


class _Transfer:
    def __init__(self, web: Web, wanted: Wanted, part: PartFile, credentials: Credentials, progress: Progress) -> None:
        self._web = web
        self._wanted = wanted
        self._part = part
        self._credentials = credentials
        self._progress = progress
        self._encoding = ""

    def complete(self) -> None:
        """Have the whole, compared.

        :raises DownloadError: it cannot be had, or is another.
        """
        digest, part = self._wanted.digest, self._part
        if digest is not None and part.digests[digest.algorithm] == digest:
            return  # it was whole when somebody was killed, or nobody has taken it
        try:
            self._try()
        except BaseException:
            if not part.size:
                part.discard()
            raise
        self._compare()

    def _try(self) -> None:
        tries, furthest, part = Tries(self._wanted.url), self._part.size, self._part
        while True:
            try:
                return self._go_on()
            except Interrupted as error:
                if part.size >= furthest + _ENOUGH_PROGRESS:
                    tries.progressed()
                furthest = max(furthest, part.size)
                tries.wait_after(error)

    def _go_on(self) -> None:
        """Get as much as there is over one connection.

        :raises Interrupted: that was not all.
        """
        part, wanted = self._part, self._wanted
        is_resumable = bool(part.size and part.version.validator and part.size != part.version.size)
        headers = {"Range": f"bytes={part.size}-", "If-Range": part.version.validator or ""} if is_resumable else {}
        with self._web.ask(wanted.url, credentials=self._credentials, headers=headers) as answer:
            if is_resumable and answer.status == 206:
                self._require_the_rest(answer)
            elif is_resumable and answer.status == 416:
                reached = part.size
                part.begin(Version())
                raise Interrupted(f"has no more of the file than {reached} bytes")
            elif answer.status == 200:
                part.begin(version_of(answer))
                self._require_bounds()
            else:
                raise DownloadError(refusal(answer))
            self._encoding = answer.headers.get("Content-Encoding", "")
            self._take(answer)

    def _require_the_rest(self, answer: Answer) -> None:
        part = self._part
        found = _RANGE.fullmatch(answer.headers.get("Content-Range", "").strip())
        here = version_of(answer)
        is_same = not (here.etag and part.version.etag) or here.etag == part.version.etag
        is_rest = (
            found is not None
            and int(found[1]) == part.size
            and (found[3] == "*" or part.version.size in (None, int(found[3])))
        )
        if not (is_rest and is_same):
            part.begin(Version())
            raise Interrupted("answers with another part of the file than the one that was asked for")
        if part.version.size is None and found is not None and found[3] != "*":
            part.version = replace(part.version, size=int(found[3]))
        self._require_bounds()

    def _require_bounds(self) -> None:
        wanted, size = self._wanted, self._part.version.size
        if size is None:
            return
        if wanted.size is not None and size != wanted.size:
            raise self._unwanted(f"has {size} bytes, and not {wanted.size}, as {wanted.says} says")
        if size > wanted.limit:
            raise self._beyond_limit(f"{size >> 20} MiB")
        self._part.require_room(size)

    def _take(self, answer: Answer) -> None:
        part, wanted, what = self._part, self._wanted, f"downloading {self._wanted.name}"
        whole = part.version.size
        self._progress(what, part.size, whole)
        for piece in answer.pieces():
            if (reached := part.size + len(piece)) > (math.inf if whole is None else whole):
                raise self._unwanted(f"sends more than the {whole} bytes that it has announced")
            if reached > wanted.limit:
                raise self._beyond_limit("more")
            part.append(piece)
            self._progress(what, part.size, whole)
        if whole is not None and part.size < whole:
            raise Interrupted(f"ended after {part.size} of {whole} bytes")

    def _beyond_limit(self, size: str) -> DownloadError:
        most = self._wanted.limit >> 20
        return self._unwanted(
            f"has {size}, and {most} MiB are the most that the store of images may take; see --vm-image-store-size"
        )

    def _compare(self) -> None:
        part, wanted = self._part, self._wanted
        if wanted.size is not None and part.size != wanted.size:
            raise self._unwanted(f"has {part.size} bytes, and not {wanted.size}, as {wanted.says} says")
        if wanted.digest is None or (found := part.digests[wanted.digest.algorithm]) == wanted.digest:
            return
        error = self._unwanted(
            f"is not the file that is wanted: its digest is {found}, and {wanted.says} says {wanted.digest}; nothing "
            "of it was kept"
        )
        if self._encoding:
            error.add_note(f"The server says that it has packed it on the way, by {self._encoding}.")
        raise error

    def _unwanted(self, reason: str) -> DownloadError:
        """The error for a file of which nothing is to be kept."""
        self._part.discard()
        return DownloadError(f"{shown_url(self._wanted.url)} {reason}")


def version_of(answer: Answer) -> Version:
    """Which version of the file an answer is about; its size is that of a whole one only."""
    length = answer.headers.get("Content-Length", "")
    is_whole = answer.status == 200 and _LENGTH.fullmatch(length) and "Transfer-Encoding" not in answer.headers
    etag, modified = answer.headers.get("ETag", ""), answer.headers.get("Last-Modified", "")
    return Version(
        etag=etag if _ETAG.fullmatch(etag) else None,
        modified=modified if _TIME.fullmatch(modified) else None,
        size=int(length) if is_whole else None,
    )


def refusal(answer: Answer) -> str:
    """The sentence for an answer that is no file."""
    sentence = f"{shown_url(answer.url)} answers {answer.reason}"
    if answer.status in (401, 403):
        return f"{sentence}; if it needs a user and password, put them into ~/.netrc"
    return sentence


@contextlib.contextmanager
def _lock(wanted: Wanted, folder: Path, progress: Progress, tell: Callable[[str], object]) -> Iterator[None]:
    path = folder / f"{wanted.key}.lock"
    last_going = time.monotonic()

    def stands_still() -> bool:
        nonlocal last_going
        with contextlib.suppress(OSError):
            progress(f"downloading {wanted.name}, by process {holder_of(path).pid}", _size(folder, wanted), wanted.size)
        if not is_stopped(holder_of(path).pid):
            last_going = time.monotonic()
        return time.monotonic() > last_going + STOPPED_PATIENCE

    try:
        lock = try_lock(path, make=0o600)
        if lock is None:
            tell(f"waiting for process {holder_of(path).pid or '?'}, which downloads {wanted.name}")
            lock = wait_for_lock(path, make=0o600, give_up=stands_still)
    except OSError as error:
        raise HostError(f"{wanted.name} cannot be downloaded into {folder}: {explain(error)}") from None
    if lock is None:
        raise HostError(
            f"process {holder_of(path).pid} downloads {wanted.name} and is stopped, by Ctrl-Z or a debugger: let it go "
            "on (fg), or end it"
        )
    try:
        lock.sign()
        yield
    finally:
        lock.remove()


def _size(folder: Path, wanted: Wanted) -> int:
    return (folder / f"{wanted.key}.part").stat().st_size


def _sweep(folder: Path) -> None:
    """Remove what nobody has gone on with for so long that nobody will."""
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            if path.stat().st_mtime > time.time() - _STALE:
                continue
            if (lock := try_lock(folder / f"{path.stem}.lock", make=0o600)) is not None:
                try:
                    path.unlink()
                finally:
                    lock.remove()
