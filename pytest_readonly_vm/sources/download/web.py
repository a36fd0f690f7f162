"""Owns the conversation with web servers: requests, redirects, time limits, and why one broke. It knows of no images.

Nothing that is secret is in a message: of a URL only what `shown_url` leaves, of what urllib3 says only the cause.
"""

import contextlib
import io
import math
import re
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urljoin, urlsplit, urlunsplit

from pytest_readonly_vm.config.image_url import INSECURE, shown_url
from pytest_readonly_vm.errors import DownloadError
from pytest_readonly_vm.sources.download.connections import SOCKET, Connections, deadline
from pytest_readonly_vm.sources.download.tries import Interrupted

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

CONNECT_PATIENCE = 20.0
READ_PATIENCE = 30.0
"""Seconds without a single byte, after which a connection is given up."""
SLOWEST = 1024
"""Bytes a second, over `SLOW_PATIENCE` seconds: a server that sends less is as good as one that sends nothing."""
SLOW_PATIENCE = 60.0

LEAVE_PATIENCE = 1.0
"""Seconds for the rest of an answer that nobody wants: a new connection takes less."""
_MOST_REDIRECTS = 10
_PIECE = 1 << 18
_REDIRECTS = (301, 302, 303, 307, 308)
_PASSING = (408, 425, 429, 500, 502, 503, 504)


class Credentials(Protocol):
    """What makes a server believe who asks."""

    def headers(self, url: str) -> Mapping[str, str]:
        """The headers for this URL; none for a host for which they are not meant."""

    def take_challenge(self, url: str, challenge: str) -> bool:
        """Hear why a server has refused (status 401), and say whether asking again may help."""


class NoCredentials:
    """Nobody in particular asks."""

    def headers(self, url: str) -> Mapping[str, str]:
        return {}

    def take_challenge(self, url: str, challenge: str) -> bool:
        return False


class Answer:
    """What a server has answered: its status and headers, and its body as it comes over the wire."""

    def __init__(self, response: "BaseHTTPResponse", url: str) -> None:
        self._response = response
        self.url = url
        """After all redirects."""
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers  # by names in any case

    @property
    def reason(self) -> str:
        """``404 Not Found``."""
        return _status(self._response)

    def pieces(self) -> Iterator[bytes]:
        """The body, never unpacked, whatever Content-Encoding says: the digest is that of these bytes.

        :raises Interrupted: it ended early, or comes too slowly, or not at all.
        """
        since, received = time.monotonic(), 0
        while True:
            with _interruptions(self.url), self._patience():
                piece = self._response.read1(_PIECE, decode_content=False)
            if not piece:
                return
            yield piece
            received += len(piece)
            if (seconds := time.monotonic() - since) >= SLOW_PATIENCE:
                if received < SLOWEST * seconds:
                    raise Interrupted(f"sends less than {SLOWEST} bytes a second")
                since, received = time.monotonic(), 0

    def _patience(self) -> AbstractContextManager[None]:
        """For what is read at once where that may be many small parts: the lengths of chunks."""
        if not getattr(self._response, "chunked", False):
            return contextlib.nullcontext()
        return deadline(getattr(self._response, SOCKET), SLOW_PATIENCE, "sent no chunk")

    def text(self, most: int) -> bytes:
        """The whole body of an answer that is known to be short.

        :raises DownloadError: it is longer than `most` bytes.
        :raises Interrupted: it ended early.
        """
        found = bytearray()
        for piece in self.pieces():
            found += piece
            if len(found) > most:
                raise DownloadError(f"{shown_url(self.url)} is longer than the {most} bytes that such a text may have")
        return bytes(found)


class _Sent(io.BytesIO):
    """A body that goes piece by piece: as a whole it would have to be gone within the time for one of them.

    :raises Interrupted: when it is read, after a server that takes it too slowly.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._since = time.monotonic()

    def read(self, size: int | None = -1, /) -> bytes:
        if (seconds := time.monotonic() - self._since) >= SLOW_PATIENCE and self.tell() < SLOWEST * seconds:
            raise Interrupted(f"takes less than {SLOWEST} bytes a second")
        return super().read(size)


class Web:
    """Connections to web servers, kept open between requests. A context manager, for one thread."""

    def __init__(self, *, insecure: bool, direct: bool = False, patience: float = math.inf) -> None:
        """
        :param insecure: whether http will do, also where https leads there.
        :param direct: whether no proxy is used, as what is on this computer is not to pass by another.
        :param patience: seconds after which each wait for a server ends, if that is sooner than it would.
        :raises HostError: urllib3 is not installed.
        """
        self._insecure = insecure
        self._patience = patience
        self._connections = Connections(direct=direct, patience=patience)

    def __enter__(self) -> "Web":
        self._connections.open()
        return self

    def __exit__(self, *_: object) -> None:
        self._connections.close()

    @contextlib.contextmanager
    def ask(
        self,
        url: str,
        *,
        credentials: Credentials,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Iterator[Answer]:
        """The answer to a request, after redirects, which are followed for `GET` and `HEAD`.

        :raises DownloadError: it leads where it must not, or nowhere, or a certificate is not trusted.
        :raises Interrupted: no answer, or one that says to come again.
        """
        for _ in range(_MOST_REDIRECTS + 1):
            response = self._response(url, credentials, method, headers or {}, body)
            try:
                if response.status not in _REDIRECTS or method not in ("GET", "HEAD"):
                    if response.status in _PASSING:
                        raise Interrupted(f"answers {_status(response)}", pause=_pause(response))
                    yield Answer(response, url)
                    return
                url = self._where_to(url, response)
            finally:
                _leave(response)
        raise DownloadError(f"{shown_url(url)} redirects for ever: {_MOST_REDIRECTS} times so far")

    def _response(
        self, url: str, credentials: Credentials, method: str, headers: Mapping[str, str], body: bytes | None
    ) -> "BaseHTTPResponse":
        is_second = False
        while True:
            own = credentials.headers(url)
            length = {"Content-Length": str(len(body))} if body is not None else {}
            with _interruptions(url, self._patience):
                response = self._connections.pool(url).request(
                    method,
                    url,
                    body=None if body is None else _Sent(body),
                    headers={
                        "User-Agent": "pytest-readonly-vm",
                        "Accept-Encoding": "identity",
                        **length,
                        **headers,
                        **own,
                    },
                    redirect=False,
                    retries=False,
                    preload_content=False,
                    decode_content=False,
                    timeout=self._connections.timeout(
                        connect=min(CONNECT_PATIENCE, self._patience), read=min(READ_PATIENCE, self._patience)
                    ),
                )
            challenge = response.headers.get("WWW-Authenticate", "")
            if response.status != 401 or is_second:
                return response
            _leave(response)  # of which nobody wants more than the status
            if not credentials.take_challenge(url, challenge):
                return response
            is_second = True

    def _where_to(self, url: str, response: "BaseHTTPResponse") -> str:
        location = response.headers.get("Location", "")
        try:
            parts = urlsplit(urljoin(url, location))
            target = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment=""))
            host, _port = parts.hostname, parts.port
        except ValueError:
            host = None
        if not location or not host or parts.scheme not in ("https", "http"):
            raise DownloadError(f"{shown_url(url)} redirects to what is no URL of the web ({_status(response)})")
        if parts.scheme == "http" and not self._insecure:
            raise DownloadError(
                f"{shown_url(url)} redirects to {shown_url(target)}, and anybody on the way can read and change what "
                f"comes by http; take another URL, or put {INSECURE} after its #"
            )
        return target


@contextlib.contextmanager
def _interruptions(url: str, patience: float = math.inf) -> Iterator[None]:
    """Turn what urllib3 raises into what is to be done about it."""
    from urllib3 import exceptions as errors

    try:
        yield
    except errors.ProxyError as error:
        cause = error.original_error
        raise Interrupted(f"cannot be had through the proxy of the environment: {_cause(cause)}") from None
    except errors.SSLError as error:
        found = error.args[0] if error.args else error
        if isinstance(found, ssl.SSLCertVerificationError):
            raise _distrusted(url, found) from None
        raise Interrupted(f"broke the encrypted connection: {getattr(found, 'reason', None) or 'no reason'}") from None
    except errors.ReadTimeoutError:
        raise Interrupted(f"sent nothing for {min(READ_PATIENCE, patience):g} s") from None
    except errors.NameResolutionError:
        raise Interrupted("is at a host whose name cannot be looked up") from None
    except errors.NewConnectionError as error:
        raise Interrupted(f"cannot be connected to: {_cause(error)}") from None
    except errors.ConnectTimeoutError:  # which the two above are as well
        raise Interrupted(f"cannot be connected to within {min(CONNECT_PATIENCE, patience):g} s") from None
    except (errors.LocationParseError, errors.LocationValueError):
        raise DownloadError(f"{shown_url(url)} cannot be read as a URL") from None
    except (errors.HTTPError, OSError):
        raise Interrupted("ended the connection too early") from None


def _distrusted(url: str, error: ssl.SSLCertVerificationError) -> DownloadError:
    return DownloadError(
        f"{shown_url(url)}: the server's certificate is not trusted: {error.verify_message.rstrip('.')}; a certificate "
        "authority of your own is named by SSL_CERT_FILE=FILE in the environment"
    )


def _cause(error: BaseException) -> str:
    """The kernel's words at the bottom of what urllib3 has wrapped; its own name one and have URLs in them."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        if isinstance(cause, OSError) and str(cause).startswith("Tunnel connection failed"):
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__


def _leave(response: "BaseHTTPResponse") -> None:
    """Keep the connection for the next request where the rest is short and comes at once; else close it."""
    length = response.headers.get("Content-Length", "")
    if re.fullmatch(r"[0-9]{1,4}", length) and not response.closed:
        with contextlib.suppress(Interrupted), deadline(getattr(response, SOCKET), LEAVE_PATIENCE, "sent no end"):
            response.drain_conn()
    response.close()


def _status(response: "BaseHTTPResponse") -> str:
    return f"{response.status} {response.reason or ''}".strip()


def _pause(response: "BaseHTTPResponse") -> float:
    written = response.headers.get("Retry-After", "")
    return float(written) if re.fullmatch(r"[0-9]{1,9}", written) else 0.0
