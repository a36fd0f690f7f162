"""What is not the file that is wanted is refused, and nothing is left; no server holds a run up for ever."""

import contextlib
import hashlib
import http.server
import threading
import time

import pytest

from pytest_readonly_vm import DownloadError
from pytest_readonly_vm.sources.download import connections, web
from tests.qemu.waiting import GENEROUS
from tests.unit.download.downloads import CONTENT, PART, SHA256, Downloads, pinned
from tests.web_server import Fault, Site, serving, site


def test_another_digest_is_an_error_that_names_both(server: Site, downloads: Downloads) -> None:
    url = server.put("x.img", b"another")
    assert downloads.refused(pinned(url)) == (
        f"{url} is not the file that is wanted: its digest is sha256:{hashlib.sha256(b'another').hexdigest()}, and "
        f"what is written after # says sha256:{SHA256}; nothing of it was kept"
    )


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (Fault(status=404), "{url} answers 404 Not Found"),
        (Fault(status=403), "{url} answers 403 Forbidden; if it needs a user and password, put them into ~/.netrc"),
        (Fault(status=206), "{url} answers 206 Partial Content"),
        (
            Fault(headers={"Content-Length": str(1 << 40)}),
            "{url} has 1048576 MiB, and 1024 MiB are the most that the store of images may take; see "
            "--vm-image-store-size",
        ),
    ],
    ids=["404", "403", "206", "longer than the limit"],
)
def test_what_is_no_file_is_a_sentence(server: Site, downloads: Downloads, fault: Fault, sentence: str) -> None:
    url = server.put("x.img", CONTENT, fault)
    assert downloads.refused(pinned(url)) == sentence.format(url=url)
    assert len(server.asked) == 1


def test_one_without_a_length_is_bounded_as_well(server: Site, downloads: Downloads) -> None:
    url = server.put("x.img", CONTENT, Fault(chunked=True))
    assert "has more, and 1 MiB are the most" in downloads.refused(pinned(url), limit=1 << 20)


def test_a_length_that_lies_ends_with_the_digest_or_the_tries(server: Site, downloads: Downloads) -> None:
    short = server.put("short.img", CONTENT, Fault(headers={"Content-Length": "1000"}))
    assert "its digest is sha256:" in downloads.refused(pinned(short))
    longer = {"Content-Length": str(len(CONTENT) + 7)}
    url = server.put("long.img", CONTENT, *[Fault(headers=longer) for _ in range(50)])
    with pytest.raises(DownloadError, match="5 times in a row; try again later"):
        downloads.get(pinned(url))


def test_a_server_that_fails_for_ever_is_given_up(server: Site, downloads: Downloads) -> None:
    url = server.put("x.img", CONTENT, *[Fault(status=502) for _ in range(50)])
    assert downloads.refused(pinned(url)) == f"{url} answers 502 Bad Gateway, 5 times in a row; try again later"
    assert len(server.asked) == 5


def test_one_that_never_comes_further_is_given_up_and_what_is_here_stays(server: Site, downloads: Downloads) -> None:
    url = server.put("x.img", CONTENT, *[Fault(cut=PART, no_range=True) for _ in range(50)])
    with pytest.raises(DownloadError, match=r"x\.img ended the connection too early, 5 times in a row"):
        downloads.get(pinned(url))
    assert downloads.left == [".json", ".part"]
    server.files["/x.img"].faults.clear()
    assert downloads.get(pinned(url)) == CONTENT
    assert server.asked[-1].headers["range"] == f"bytes={PART}-"


def test_a_server_that_stalls_is_given_up(server: Site, downloads: Downloads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "READ_PATIENCE", 0.3)
    url = server.put("x.img", CONTENT, *[Fault(stall=0) for _ in range(50)])
    assert downloads.refused(pinned(url)) == f"{url} sent nothing for 0.3 s, 5 times in a row; try again later"


def test_a_server_that_drips_is_given_up(server: Site, downloads: Downloads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "SLOW_PATIENCE", 0.05)
    monkeypatch.setattr(web, "SLOWEST", 1 << 20)
    url = server.put("x.img", CONTENT, *[Fault(drip=0.01) for _ in range(50)])
    with pytest.raises(DownloadError, match=r"sends less than 1048576 bytes a second, 5 times in a row"):
        downloads.get(pinned(url))


@pytest.mark.parametrize(
    ("begins", "goes_on", "sentence"),
    [
        ("HTTP/1.1 200 OK\r\n", "A: b\r\n", "did not send the head of its answer within 0.1 s, 5 times in a row"),
        ("HTTP/1.1 200 OK\r\nA: ", "b", "did not send the head of its answer within 0.1 s, 5 times in a row"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "0", "sent no chunk within 0.1 s, 5 times in a row"),
        ("HTTP/1.1 404 Gone\r\nContent-Length: 9999\r\n\r\n", "x", "answers 404 Gone"),
        ("HTTP/1.1 503 No\r\nContent-Length: 9999\r\n\r\n", "x", "answers 503 No, 5 times in a row"),
    ],
    ids=["headers", "one header", "chunks", "refusal", "passing"],
)
def test_a_server_that_drips_what_has_no_bytes_of_the_image_is_given_up(
    downloads: Downloads, monkeypatch: pytest.MonkeyPatch, begins: str, goes_on: str, sentence: str
) -> None:
    class Dripping(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with contextlib.suppress(OSError):  # whoever asked has left
                self.wfile.write(begins.encode())
                while True:
                    self.wfile.write(goes_on.encode())
                    left.wait(0.02)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    left = threading.Event()
    if "head" in sentence:
        monkeypatch.setattr(connections, "HEAD_PATIENCE", 0.1)
    monkeypatch.setattr(web, "SLOW_PATIENCE", 0.1)
    monkeypatch.setattr(web, "LEAVE_PATIENCE", 0.1)
    since = time.monotonic()
    with serving(Dripping) as port, pytest.raises(DownloadError, match=sentence):
        downloads.get(pinned(f"http://127.0.0.1:{port}/x.img"))
    assert time.monotonic() - since < GENEROUS


def test_nobody_there_is_a_sentence(downloads: Downloads) -> None:
    with site() as gone:
        url = f"{gone.url}/x.img"
    assert downloads.refused(pinned(url)) == (
        f"{url} cannot be connected to: Connection refused, 5 times in a row; try again later"
    )
