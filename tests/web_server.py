"""Owns a web server on loopback that has faults when asked for them: it cuts, stalls, lies, changes files."""

import contextlib
import email.utils
import hashlib
import http.server
import re
import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Fault:
    """What is wrong with one answer."""

    status: int | None = None
    """In place of the file."""
    headers: dict[str, str] = field(default_factory=dict)
    """In place of those of the same name."""
    cut: int | None = None
    """After so many bytes of the body the connection is closed."""
    stall: int | None = None
    """After so many bytes nothing comes any more."""
    drip: float | None = None
    """Seconds between one byte and the next."""
    no_range: bool = False
    """The range that is asked for is not heeded."""
    chunked: bool = False
    then: Callable[[], object] = lambda: None
    """Called when the answer has gone."""


@dataclass
class Published:
    """A file of the server's."""

    content: bytes
    etag: str | None = None
    modified: float | None = 1.7e9
    faults: deque[Fault] = field(default_factory=deque)
    """One for each request to come, as long as there are any."""

    @classmethod
    def of(cls, content: bytes, *faults: Fault) -> "Published":
        return cls(content, f'"{hashlib.sha256(content).hexdigest()[:8]}"', faults=deque(faults))


@dataclass(frozen=True)
class Asked:
    """A request."""

    method: str
    path: str
    headers: dict[str, str]


class Site:
    """What a server has, and what it was asked."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.files: dict[str, Published] = {}
        self.redirects: dict[str, str] = {}
        self.user: str | None = None
        """The value of Authorization without which nothing is given."""
        self.asked: list[Asked] = []
        self.closing = threading.Event()
        """Ends what stalls."""
        self.sending = threading.Semaphore(0)
        """Released each time that a body stalls."""

    def put(self, name: str, content: bytes, *faults: Fault) -> str:
        """Publish a file; its URL."""
        self.files[f"/{name}"] = Published.of(content, *faults)
        return f"{self.url}/{name}"

    def requests(self, name: str, method: str = "GET") -> list[Asked]:
        return [one for one in self.asked if one.path.partition("?")[0] == f"/{name}" and one.method == method]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for an acknowledgement
    site: Site

    def do_GET(self) -> None:
        site, path = self.site, self.path.partition("?")[0]
        headers = {name.lower(): value for name, value in self.headers.items()}
        site.asked.append(Asked(self.command, self.path, headers))
        if site.user is not None and headers.get("authorization") != site.user:
            return self.answer(401, {"WWW-Authenticate": 'Basic realm="here"'}, b"who are you?")
        if path in site.redirects:
            return self.answer(302, {"Location": site.redirects[path]}, b"")
        if (file := site.files.get(path)) is None:
            return self.answer(404, {}, b"not here")
        fault = file.faults.popleft() if file.faults and self.command == "GET" else Fault()
        self.give(file, fault, headers)
        return fault.then()  # type: ignore[return-value]

    do_HEAD = do_GET  # noqa: N815

    def give(self, file: Published, fault: Fault, asked: dict[str, str]) -> None:
        if fault.status is not None:
            return self.answer(fault.status, fault.headers, b"no")
        content, status = file.content, 200
        modified = None if file.modified is None else email.utils.formatdate(file.modified, usegmt=True)
        headers = {"ETag": file.etag, "Last-Modified": modified, "Accept-Ranges": "bytes"}
        if asked.get("if-match", file.etag) != file.etag:
            return self.answer(412, {}, b"")
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", asked.get("range", ""))
        if found and not fault.no_range and asked.get("if-range") in (None, file.etag, modified):
            start = int(found[1])
            if start >= len(content):
                return self.answer(416, {"Content-Range": f"bytes */{len(content)}"}, b"")
            end = min(int(found[2] or len(content)), len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            content, status = content[start : end + 1], 206
        given = {name: value for name, value in (headers | fault.headers).items() if value}
        self.answer(status, given, content, fault)
        return None

    def answer(self, status: int, headers: dict[str, Any], body: bytes, fault: Fault | None = None) -> None:
        fault = fault or Fault()
        self.send_response(status)
        if fault.chunked:
            headers = headers | {"Transfer-Encoding": "chunked"}
        elif "Content-Length" not in headers:
            headers = headers | {"Content-Length": str(len(body))}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        with contextlib.suppress(OSError):  # whoever asked has left
            self.send(body, fault)

    def send(self, body: bytes, fault: Fault) -> None:
        end = min(len(body) if one is None else one for one in (fault.cut, fault.stall))
        if fault.chunked:
            for start in range(0, end, 1 << 16):
                piece = body[start : min(start + (1 << 16), end)]
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            if end == len(body):
                self.wfile.write(b"0\r\n\r\n")
        elif fault.drip is not None:
            for byte in body:
                self.wfile.write(bytes([byte]))
                if self.site.closing.wait(fault.drip):
                    break
        else:
            self.wfile.write(body[:end])
        self.wfile.flush()
        if fault.stall is not None:
            self.site.sending.release()
            self.site.closing.wait()
        if fault.cut is not None or "Content-Length" in fault.headers:
            self.close_connection = True

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@contextlib.contextmanager
def site(context: ssl.SSLContext | None = None) -> Iterator[Site]:
    """A server on a port of its own, with TLS if a context is given."""

    class OwnHandler(Handler):
        pass

    with serving(OwnHandler, context) as port:
        OwnHandler.site = Site(f"{'https' if context else 'http'}://127.0.0.1:{port}")
        try:
            yield OwnHandler.site
        finally:
            OwnHandler.site.closing.set()


@contextlib.contextmanager
def serving(handler: type[http.server.BaseHTTPRequestHandler], context: ssl.SSLContext | None = None) -> Iterator[int]:
    """A server with a thread for each connection; its port."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
