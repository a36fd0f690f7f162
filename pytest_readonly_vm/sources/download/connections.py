"""Owns the connections to web servers: by which proxy, which certificates are trusted, and that they log no secrets.

With `web` the only file that imports urllib3, which is not installed with the package.
"""

import contextlib
import logging
import math
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]

from pytest_readonly_vm.config.image_url import shown_url
from pytest_readonly_vm.errors import ConfigurationError, HostError
from pytest_readonly_vm.sources.download.tries import Interrupted

if TYPE_CHECKING:
    from urllib3 import HTTPConnectionPool, PoolManager, Timeout

HEAD_PATIENCE = 60.0
"""Seconds for the head of an answer to come whole."""

SOCKET = "_read_from"

_LOGGER = "urllib3.connectionpool"
_CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")


class Connections:
    """Those of one thread, kept between requests."""

    def __init__(self, *, direct: bool, patience: float = math.inf) -> None:
        """
        :param direct: whether no proxy is used.
        :param patience: seconds for the head of an answer to come whole, if that is sooner than `HEAD_PATIENCE`.
        :raises HostError: urllib3 is not installed.
        """
        try:
            import urllib3
        except ImportError:
            raise HostError(
                "images from URLs and registries need urllib3: pip install 'pytest-readonly-vm[images]'"
            ) from None
        self._urllib3 = urllib3
        self._pool_classes = _pools_with_deadline(urllib3, patience)
        self._direct = direct
        self._thread = threading.get_ident()
        self._pools: dict[tuple[str, bool], PoolManager] = {}
        self._context: ssl.SSLContext | None = None

    def open(self) -> None:
        """From now on nothing of them is logged: urllib3 logs queries, in which there are signatures and tokens."""
        logging.getLogger(_LOGGER).addFilter(self._is_of_others)

    def close(self) -> None:
        """Close all."""
        logging.getLogger(_LOGGER).removeFilter(self._is_of_others)
        for pool in self._pools.values():
            pool.clear()

    def _is_of_others(self, record: logging.LogRecord) -> bool:
        return record.thread != self._thread

    def timeout(self, *, connect: float, read: float) -> "Timeout":
        """Limits, in seconds: for a connection to be made, and without a byte."""
        return self._urllib3.Timeout(connect=connect, read=read)

    def pool(self, url: str) -> "PoolManager":
        """Those to the server of a URL, or to the proxy on the way.

        :raises ConfigurationError: a proxy or certificate of the environment cannot be used.
        """
        parts = urlsplit(url)
        proxies = getproxies_environment()
        proxy = proxies.get(parts.scheme) or proxies.get("all") or ""
        if self._direct or proxy_bypass_environment(parts.netloc.rpartition("@")[2], proxies):
            proxy = ""
        proxy = proxy if not proxy or "://" in proxy else f"http://{proxy}"
        if parts.scheme == "https" or proxy.lower().startswith("https:"):
            self._context = self._context or _tls()  # which takes 0.1 s
        key = (proxy, self._context is not None)
        if key not in self._pools:
            self._pools[key] = self._new_pool(proxy)
        return self._pools[key]

    def _new_pool(self, proxy: str) -> "PoolManager":
        if not proxy:
            pool = self._urllib3.PoolManager(ssl_context=self._context)
            pool.pool_classes_by_scheme = self._pool_classes
            return pool
        try:
            parts = urlsplit(proxy)
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}" if parts.username else None
            bare = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], path="", query=""))
            pool = self._urllib3.ProxyManager(
                bare,
                proxy_headers=self._urllib3.make_headers(proxy_basic_auth=login),
                ssl_context=self._context,
                proxy_ssl_context=self._context,
            )
            pool.pool_classes_by_scheme = self._pool_classes
            return pool
        except (ValueError, self._urllib3.exceptions.HTTPError):
            raise ConfigurationError(
                f"{shown_url(proxy)}, which HTTP_PROXY, HTTPS_PROXY or ALL_PROXY of the environment names, is no proxy "
                "that can be used; write it like http://proxy.example.org:3128"
            ) from None


@contextlib.contextmanager
def deadline(read: socket.socket, seconds: float, doing: str) -> Iterator[None]:
    """Cut a connection that is still read then: its own limit begins anew with each byte.

    :raises Interrupted: it was cut; `doing` continues a sentence about the URL.
    """
    is_late = threading.Event()

    def cut() -> None:
        is_late.set()
        with contextlib.suppress(OSError):  # it is closed
            socket.socket.shutdown(read, socket.SHUT_RDWR)  # not TLS's own, which is not for two threads

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    except Exception:
        if not is_late.is_set():
            raise
    finally:
        timer.cancel()
    if is_late.is_set():  # also without an error, as the end of a connection ends headers and chunks for http.client
        raise Interrupted(f"{doing} within {seconds:g} s")


def _pools_with_deadline(urllib3: ModuleType, patience: float) -> dict[str, type["HTTPConnectionPool"]]:
    """urllib3's pools. The head of an answer has a deadline, and `SOCKET` of an answer is what it is read from."""

    def patient(kind: Any) -> Any:
        class Connection(kind.ConnectionCls):  # type: ignore[misc]
            def getresponse(self) -> Any:
                read: Any = getattr(self.sock, "socket", self.sock)  # which it has where TLS is within TLS, by a proxy
                with deadline(read, min(HEAD_PATIENCE, patience), "did not send the head of its answer"):
                    answer = super().getresponse()
                setattr(answer, SOCKET, read)
                return answer

        return type(kind.__name__, (kind,), {"ConnectionCls": Connection})

    return {"http": patient(urllib3.HTTPConnectionPool), "https": patient(urllib3.HTTPSConnectionPool)}


def _tls() -> ssl.SSLContext:
    """The system's certificates, or those that a variable names which others in Python heed, or OpenSSL itself."""
    for variable in _CA_VARIABLES:
        named = os.environ.get(variable)
        if not named:
            continue
        try:
            context = ssl.create_default_context(
                **({"capath": named} if Path(named).is_dir() else {"cafile": named})  # type: ignore[arg-type]
            )
        except OSError as error:  # ssl.SSLError is one
            reason = error.strerror if error.errno and not isinstance(error, ssl.SSLError) else "it has no certificate"
            raise ConfigurationError(
                f"{named}, which {variable} of the environment names, cannot be used: {reason}"
            ) from None
        return context
    return ssl.create_default_context()
