"""Owns a proxy on loopback, for http and, by CONNECT, for https."""

import contextlib
import http.client
import http.server
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tests.web_server import serving


@dataclass
class Proxy:
    """What it was asked."""

    port: int
    asked: list[str] = field(default_factory=list)
    """The lines of requests that it let through."""


@contextlib.contextmanager
def proxy(login: str) -> Iterator[Proxy]:
    """A proxy that lets through who says this as Proxy-Authorization."""
    found = Proxy(0)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.refuses():
                return
            parts = urlsplit(self.path)
            connection = http.client.HTTPConnection(parts.netloc)
            with contextlib.closing(connection):
                headers = {name: value for name, value in self.headers.items() if not name.startswith("Proxy-")}
                connection.request("GET", parts.path, headers=headers)
                answer = connection.getresponse()
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer.read())

        def do_CONNECT(self) -> None:
            if self.refuses():
                return
            host, _, port = self.path.partition(":")
            with socket.create_connection((host, int(port))) as other:
                self.send_response(200)
                self.end_headers()
                thread = threading.Thread(target=pour, args=(other, self.connection))
                thread.start()
                pour(self.connection, other)
                thread.join()

        def refuses(self) -> bool:
            if self.headers.get("Proxy-Authorization") != login:
                self.send_error(407)
                return True
            found.asked.append(self.requestline)
            return False

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with serving(Handler) as found.port:
        yield found


def pour(source: socket.socket, target: socket.socket) -> None:
    """Pass on what comes, to its end."""
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
