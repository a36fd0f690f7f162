"""Owns parcels at a URL of whatever fsspec knows: S3, GCS, Azure, SFTP. The only file that imports fsspec."""

import io
import re
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

from pytest_readonly_vm.config.image_url import shown_url
from pytest_readonly_vm.errors import ConfigurationError, HostError, RemoteError
from pytest_readonly_vm.printable import line
from pytest_readonly_vm.remote.patience import within

T = TypeVar("T")

PATIENCE = 120.0
"""Seconds for one request, whatever the library does about it: a pack of 8 MiB comes at half a Mbit/s."""
_APPEARING_WHOLE = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az")
"""Object stores, where what is put is seen when all of it is there. Elsewhere it is renamed."""
_OF_SSH = ("sftp", "ssh")


class UrlFiles:
    """`layout.Files` of a file system of fsspec's."""

    is_own = False
    distrust = ""

    def __init__(self, url: str) -> None:
        """
        :raises HostError: fsspec is not installed, or what it takes for such URLs.
        :raises ConfigurationError: it knows no such.
        :raises RemoteError: there is no way there.
        """
        self.name = shown_url(url)
        self._url = url
        self._scheme = url.partition("://")[0].lower()
        try:
            import fsspec
        except ImportError:
            raise HostError(
                f"{self._scheme}:// takes fsspec: pip install 'pytest-readonly-vm[remote]', and what it needs for it"
            ) from None
        if self._scheme not in fsspec.available_protocols():
            raise ConfigurationError(f"{self._scheme}:// is no place for frozen guests that fsspec knows")
        self._fs: Any
        self._is_taken = False
        try:
            options = self._options()
            self._fs, root = self._do(lambda: fsspec.core.url_to_fs(url, skip_instance_cache=True, **options))
        except ImportError as error:
            raise HostError(f"{self._scheme}:// takes another package: {line(str(error), 200)}") from None
        except (ValueError, TypeError) as error:
            raise ConfigurationError(f"{self.name} is no place for frozen guests: {line(str(error), 200)}") from None
        except RemoteError as error:
            if "host_key_policy" in str(error):
                raise HostError(
                    f"{self._scheme}:// takes fsspec 2026.9, which can be told what servers to believe: "
                    "pip install --upgrade fsspec"
                ) from None
            raise
        self._root = str(root).rstrip("/")

    def for_another_thread(self) -> "UrlFiles":
        """The same, if the library serves several threads by one loop of its own: to begin anew takes S3's a second.

        Else it is the same for the first that asks.
        """
        if getattr(self._fs, "async_impl", False) or not self._is_taken:
            self._is_taken = True
            return self
        return UrlFiles(self._url)

    def read(self, path: str, most: int) -> bytes | None:
        place = f"{self._root}/{path}"

        def read() -> bytes:
            with self._fs.open(place, "rb", block_size=1 << 23) as file:
                if self._scheme in _OF_SSH:  # else each 32 KiB are asked for when those before have come
                    file.prefetch(min(file.stat().st_size, most + 1))
                found: bytes = file.read(most + 1)
                return found

        return self._unless_missing(read)

    def size(self, path: str) -> int | None:
        def size() -> int:
            self._fs.invalidate_cache()  # of what it was before others have put something there
            return int(self._fs.info(f"{self._root}/{path}")["size"])

        return self._unless_missing(size)

    def write(self, path: str, data: bytes) -> None:
        place = f"{self._root}/{path}"

        def write() -> None:
            if self._scheme in _APPEARING_WHOLE:
                return self._fs.pipe_file(place, data)  # type: ignore[no-any-return]
            self._fs.makedirs(place.rpartition("/")[0], exist_ok=True)
            partial = f"{place}.{secrets.token_hex(8)}.partial"
            if self._scheme in _OF_SSH:  # pipelined, as above
                self._fs.ftp.putfo(io.BytesIO(data), partial)
            else:
                self._fs.pipe_file(partial, data)
            return self._fs.mv(partial, place)  # type: ignore[no-any-return]

        try:
            self._do(write)
        except FileNotFoundError as error:  # no such bucket
            raise RemoteError(f"{self.name}: {_words(error)}") from None

    def written(self, path: str) -> float | None:
        def written() -> float:
            self._fs.invalidate_cache()
            found: datetime = self._fs.modified(f"{self._root}/{path}")
            return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()

        return self._unless_missing(written)

    def remove(self, path: str) -> None:
        self._unless_missing(lambda: self._fs.rm_file(f"{self._root}/{path}"))

    def names(self, folder: str) -> list[str] | None:
        def names() -> list[str]:
            self._fs.invalidate_cache()
            return [str(one).rpartition("/")[2] for one in self._fs.ls(f"{self._root}/{folder}", detail=False)]

        return self._unless_missing(names) or []

    def close(self) -> None:
        """Of most the library keeps its connections for others."""
        if self._scheme in _OF_SSH:
            self._fs.client.close()

    def _options(self) -> dict[str, Any]:
        """Beside those that are in the URL. Before 2026.9 fsspec fails on a policy before it connects."""
        if self._scheme not in _OF_SSH:
            return {}
        from pytest_readonly_vm.remote.known_hosts import KnownHosts

        return {"host_key_policy": KnownHosts()}

    def _unless_missing(self, call: Callable[[], T]) -> T | None:
        try:
            return self._do(call)
        except FileNotFoundError:
            return None

    def _do(self, call: Callable[[], T]) -> T:
        try:
            return within(PATIENCE, self.name, call)
        except (RemoteError, FileNotFoundError, ImportError):
            raise
        except Exception as error:  # each library has its own
            raise RemoteError(f"{self.name}: {_words(error)}") from None


def _words(error: Exception) -> str:
    """What a library says, without a query, in which there may be a signature."""
    said = line(str(error), 300) or type(error).__name__
    return re.sub(r"\?\S+", "?…", said)
