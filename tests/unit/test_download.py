"""An image from a URL is whole and what its digest says, whatever server and network do; else it is not there."""

import contextlib
import hashlib
import http.server
import os
import random
import resource
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trustme

from pytest_readonly_vm import ConfigurationError, DownloadError, HostError, VmError
from pytest_readonly_vm.config.digest import Digest
from pytest_readonly_vm.config.image_url import ImageUrl
from pytest_readonly_vm.host.locks import try_lock
from pytest_readonly_vm.sources.download import connections, transfer, tries, web
from pytest_readonly_vm.sources.download.from_url import downloaded, locate
from tests.mount_namespace import own_mounts
from tests.qemu.waiting import GENEROUS
from tests.unit.programs import program, says
from tests.web_proxy import proxy
from tests.web_server import Fault, Site, serving, site

CONTENT = random.Random(7).randbytes(3 << 20)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
SHA512 = hashlib.sha512(CONTENT).hexdigest()
PART = 1 << 20
NAME = "a disk.qcow2"
"""What tests call an image, with a space that URLs write as %20."""


@dataclass
class Downloads:
    """A folder for downloads, and what was told of them."""

    folder: Path
    told: list[str] = field(default_factory=list)
    warned: list[str] = field(default_factory=list)
    progress: list[tuple[str, int, int | None]] = field(default_factory=list)

    def get(self, url: str, *, limit: int = 1 << 30) -> bytes:
        """The content; it is taken from the folder, which has to be empty then."""
        with downloaded(
            ImageUrl.parse(url),
            self.folder,
            limit=limit,
            progress=lambda *one: self.progress.append(one),
            tell=self.told.append,
            warn=self.warned.append,
        ) as found:
            content = found.path.read_bytes()
            assert (found.located.size, found.sha256.hex) == (len(content), hashlib.sha256(content).hexdigest())
            found.path.unlink()
        return content

    def refused(self, url: str, *, limit: int = 1 << 30) -> str:
        """The sentence, once it is sure that nothing was left."""
        with pytest.raises(VmError) as refusal:
            self.get(url, limit=limit)
        assert self.left == []
        return str(refusal.value)

    @property
    def left(self) -> list[str]:
        """Which files there are, by what comes after their key."""
        return sorted(path.suffix for path in self.folder.iterdir())


@pytest.fixture
def downloads(tmp_path: Path) -> Downloads:
    folder = tmp_path / "downloads"
    folder.mkdir()
    return Downloads(folder)


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Short pauses, and nothing of the environment in which the suite runs."""
    monkeypatch.setattr(tries, "FIRST_PAUSE", 0.001)
    for name in [name for name in os.environ if name.lower().endswith(("_proxy", "_ca_bundle"))]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.fixture
def server() -> Iterator[Site]:
    with site() as found:
        yield found


@dataclass
class Certified:
    """A server with TLS, and the file with the certificate of its authority."""

    site: Site
    authority: Path


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Certified]:
    authority = trustme.CA()
    file = tmp_path_factory.mktemp("authority") / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with site(context) as found:
        yield Certified(found, file)


def pinned(url: str, digest: str = f"sha256={SHA256}") -> str:
    return f"{url}#{digest}&insecure"


# What is whole.


@pytest.mark.parametrize("digest", [f"sha256={SHA256}", f"sha512={SHA512}", f"sha256={SHA256.upper()}"])
def test_a_file_with_its_digest_comes(server: Site, downloads: Downloads, digest: str) -> None:
    assert downloads.get(pinned(server.put("x.img", CONTENT), digest)) == CONTENT
    assert downloads.left == []
    assert len(server.asked) == 1
    assert server.asked[0].headers["accept-encoding"] == "identity"
    assert downloads.progress[0] == ("downloading x.img", 0, len(CONTENT))
    assert downloads.progress[-1] == ("downloading x.img", len(CONTENT), len(CONTENT))


@pytest.mark.parametrize(
    "fault",
    [
        Fault(cut=PART),
        Fault(status=503),
        Fault(status=429, headers={"Retry-After": "0"}),
        Fault(status=500),
        Fault(cut=0),
        Fault(cut=PART, chunked=True),
    ],
    ids=["cut", "503", "429", "500", "cut at once", "cut in chunks"],
)
def test_what_breaks_is_gone_on_with(server: Site, downloads: Downloads, fault: Fault) -> None:
    assert downloads.get(pinned(server.put("x.img", CONTENT, fault))) == CONTENT
    first, second = server.asked
    assert "range" not in first.headers
    if fault.cut:
        start = int(second.headers["range"].removeprefix("bytes=").removesuffix("-"))
        assert 0 < start <= PART
        assert second.headers["if-range"] == server.files["/x.img"].etag


def test_one_that_is_cut_more_often_than_there_are_tries_comes_as_long_as_there_is_progress(
    server: Site, downloads: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "_ENOUGH_PROGRESS", 1 << 17)
    cuts = [Fault(cut=1 << 18) for _ in range(tries.MOST_TRIES + 2)]
    assert downloads.get(pinned(server.put("x.img", CONTENT, *cuts))) == CONTENT


@pytest.mark.parametrize("validator", ["modified", "weak", "none"])
def test_without_a_strong_etag_it_is_the_time_that_tells_versions_apart_and_without_that_all_comes_anew(
    server: Site, downloads: Downloads, validator: str
) -> None:
    url = server.put("x.img", CONTENT, Fault(cut=PART))
    file = server.files["/x.img"]
    file.etag = 'W/"1"' if validator == "weak" else None
    file.modified = None if validator == "none" else file.modified
    assert downloads.get(pinned(url)) == CONTENT
    condition = server.asked[1].headers.get("if-range")
    assert condition == (None if validator == "none" else "Tue, 14 Nov 2023 22:13:20 GMT")
    assert ("range" in server.asked[1].headers) == (validator != "none")


@pytest.mark.parametrize(
    "second",
    [
        Fault(no_range=True),
        Fault(headers={"Content-Range": f"bytes 0-{len(CONTENT) - 1}/{len(CONTENT)}"}),
        Fault(headers={"Content-Range": "bytes 5-6/7"}),
        Fault(headers={"Content-Range": "nonsense"}),
        Fault(headers={"ETag": '"another"'}),
        Fault(status=416),
    ],
    ids=["200", "range from the start", "another range", "no range", "another etag", "416"],
)
def test_an_answer_that_is_not_the_rest_is_not_put_behind_what_is_there(
    server: Site, downloads: Downloads, second: Fault
) -> None:
    assert downloads.get(pinned(server.put("x.img", CONTENT, Fault(cut=PART), second))) == CONTENT


def test_a_file_that_changes_between_two_parts_comes_anew(server: Site, downloads: Downloads) -> None:
    later = CONTENT[::-1]
    url = server.put("x.img", CONTENT, Fault(cut=PART, then=lambda: server.put("x.img", later)))
    assert downloads.get(pinned(url, f"sha256={hashlib.sha256(later).hexdigest()}")) == later


def test_one_that_was_changed_where_the_server_does_not_tell_is_refused(server: Site, downloads: Downloads) -> None:
    def change() -> None:
        etag = server.files["/x.img"].etag
        server.put("x.img", CONTENT[::-1])
        server.files["/x.img"].etag = etag

    url = server.put("x.img", CONTENT, Fault(cut=PART, then=change))
    assert "its digest is sha256:" in downloads.refused(pinned(url))
    assert len(server.asked) == 2


def test_a_packed_file_keeps_its_bytes_as_they_were_published(server: Site, downloads: Downloads) -> None:
    url = server.put("x.img.gz", CONTENT, Fault(headers={"Content-Encoding": "gzip"}))
    assert downloads.get(pinned(url)) == CONTENT


def test_chunks_without_a_length_come_whole(server: Site, downloads: Downloads) -> None:
    assert downloads.get(pinned(server.put("x.img", CONTENT, Fault(chunked=True)))) == CONTENT
    assert downloads.progress[-1] == ("downloading x.img", len(CONTENT), None)


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Length": "9" * 5000},
        {"Content-Length": "-1"},
        {"ETag": "unquoted", "Last-Modified": "\x1b[2J"},
        {"Content-Range": f"bytes {'9' * 5000}-1/1"},
        {"Retry-After": "9" * 5000},
    ],
)
def test_headers_that_make_no_sense_do_no_harm(server: Site, downloads: Downloads, headers: dict[str, str]) -> None:
    faults = [Fault(status=503, headers=headers)] if "Retry-After" in headers else []
    faults += [Fault(cut=PART), Fault(headers=headers)] if "Content-Range" in headers else [Fault(headers=headers)]
    assert downloads.get(pinned(server.put("x.img", CONTENT, *faults))) == CONTENT


def test_a_body_without_a_length_that_is_cut_is_not_taken_for_whole(server: Site, downloads: Downloads) -> None:
    url = server.put("x.img", CONTENT, Fault(cut=PART, headers={"Content-Length": "nonsense"}))
    assert "its digest is sha256:" in downloads.refused(pinned(url))


# What is refused, of which nothing is left.


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
    monkeypatch.setattr(web, "READ_PATIENCE", 0.05)
    url = server.put("x.img", CONTENT, *[Fault(stall=0) for _ in range(50)])
    assert downloads.refused(pinned(url)) == f"{url} sent nothing for 0.05 s, 5 times in a row; try again later"


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


# Digests beside the image.


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("SHA256SUMS", f"{SHA256}  {NAME}\n"),
        ("SHA512SUMS", f"{'0' * 128} *other\n{SHA512} *./{NAME}\n"),
        ("CHECKSUM", f"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n"
         f"# {NAME}: 3 bytes\nSHA256 ({NAME}) = {SHA256}\n"),
        (f"{NAME}.sha256", SHA256.upper()),
        (f"{NAME}.sha512", f"{SHA512}  /build/out/image-1.2.qcow2\r\n"),
    ],
)  # fmt: skip
def test_a_digest_beside_the_image_is_found(server: Site, downloads: Downloads, name: str, text: str) -> None:
    url = server.put("images/a%20disk.qcow2", CONTENT)
    server.put(f"images/{name.replace(' ', '%20')}", text.encode())
    assert downloads.get(f"{url}?token=s3cret#insecure") == CONTENT
    assert all("s3cret" not in told for told in downloads.warned)
    assert downloads.warned == [f"{url}?… comes by http, so anybody on the way can read it, and change it"]


def test_the_strongest_digest_counts(server: Site, downloads: Downloads) -> None:
    url = server.put("x.img", CONTENT)
    server.put("SHA256SUMS", f"{SHA256}  x.img\n".encode())
    server.put("x.img.sha512", f"{'0' * 128}  x.img\n".encode())
    sentence = downloads.refused(f"{url}#insecure")
    assert f"its digest is sha512:{SHA512}, and {server.url}/x.img.sha512 says sha512:000" in sentence


def test_a_name_that_is_missing_is_said_with_the_nearest(
    certified: Certified, downloads: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certified.authority))
    here = certified.site
    url = here.put("missing/debian-12.qcow2", CONTENT)
    here.put("missing/SHA256SUMS", f"{SHA256}  debian-13.qcow2\n".encode())
    hint = "write the digest behind the URL, as in #sha256=HEX, or #insecure to do without one"
    assert downloads.refused(url) == (
        f"{here.url}/missing/SHA256SUMS has no digest of debian-12.qcow2 (did you mean 'debian-13.qcow2'?); {hint}"
    )
    bare = here.put("bare/x.img", CONTENT)
    assert downloads.refused(bare) == (
        f"there is no file of checksums beside {bare}, such as SHA512SUMS or x.img.sha256; {hint}"
    )
    assert downloads.get(f"{bare}#insecure") == CONTENT
    assert downloads.warned[-1].startswith(f"{bare} is used without a digest, so nobody knows which file it is: there")


def test_a_url_without_a_name_has_no_digest_beside_it(server: Site, downloads: Downloads) -> None:
    server.put("", CONTENT)
    assert downloads.get(f"{server.url}/#insecure") == CONTENT
    assert f"{server.url}/ ends without the name of a file, of which there could be a digest" in downloads.warned[-1]
    assert len(server.asked) == 1


def test_where_an_image_is_can_be_asked_without_downloading_it(server: Site) -> None:
    url = server.put("x.img", CONTENT)
    server.put("SHA512SUMS", f"{SHA512}  x.img\n".encode())
    warned: list[str] = []
    found = locate(ImageUrl.parse(f"{url}#insecure"), warn=warned.append)
    assert (found.digest, found.size) == (Digest("sha512", SHA512), len(CONTENT))
    assert found.version.etag == server.files["/x.img"].etag
    assert server.requests("x.img") == []
    with pytest.raises(DownloadError, match="answers 404 Not Found"):
        locate(ImageUrl.parse(pinned(f"{server.url}/gone.img")), warn=warned.append)


# Whom it is asked, and by which way.


def test_redirects_are_followed_and_carry_no_password_to_another(server: Site, downloads: Downloads) -> None:
    with site() as other:
        target = other.put("y.img", CONTENT)
        server.redirects["/x.img"] = target.replace("http://", "http://thief:pw@")
        assert downloads.get(pinned(f"{server.url}/x.img".replace("http://", "http://me:s3cret@"))) == CONTENT
        assert server.asked[0].headers["authorization"] == "Basic bWU6czNjcmV0"
        assert "authorization" not in other.asked[0].headers


def test_a_password_of_the_url_or_of_netrc_is_used_and_not_shown(
    server: Site, downloads: Downloads, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    server.user = "Basic bWU6czNjcmV0"
    url = server.put("x.img", CONTENT)
    refused = downloads.refused(pinned(url))
    assert refused == f"{url} answers 401 Unauthorized; if it needs a user and password, put them into ~/.netrc"
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password s3cret")
    assert downloads.get(pinned(url)) == CONTENT
    (tmp_path / "netrc").write_text("this is s3cret nonsense")
    assert downloads.get(pinned(url.replace("http://", "http://me:s3cret@"))) == CONTENT
    server.files["/x.img"].content = b"another"
    with_password = url.replace("http://", "http://me:s3cret@") + "?signature=s3cret"
    assert "s3cret" not in downloads.refused(pinned(with_password))
    assert "s3cret" not in f"{downloads} {ImageUrl.parse(pinned(with_password))!r} {caplog.text}"


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "http://[", "http://a:99999/", ""])
def test_redirects_lead_nowhere_but_into_the_web(server: Site, downloads: Downloads, target: str) -> None:
    server.redirects["/x.img"] = target
    assert downloads.refused(pinned(f"{server.url}/x.img")) == (
        f"{server.url}/x.img redirects to what is no URL of the web (302 Found)"
    )


def test_a_circle_of_redirects_ends(server: Site, downloads: Downloads) -> None:
    server.redirects["/x.img"] = "/x.img"
    assert "redirects for ever: 10 times so far" in downloads.refused(pinned(f"{server.url}/x.img"))


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_an_authority_of_ones_own_is_named_by_the_variables_that_others_heed(
    certified: Certified, downloads: Downloads, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    url = certified.site.put("x.img", CONTENT)
    pin = f"{url}#sha256={SHA256}"
    assert downloads.refused(pin) == (
        f"{url}: the server's certificate is not trusted: unable to get local issuer certificate; a certificate "
        "authority of your own is named by SSL_CERT_FILE=FILE in the environment"
    )
    monkeypatch.setenv(variable, str(certified.authority))
    assert downloads.get(pin) == CONTENT
    monkeypatch.setenv(variable, "/nowhere.pem")
    with pytest.raises(ConfigurationError, match=f"/nowhere.pem, which {variable} of the environment names, cannot"):
        downloads.get(pin)


def test_https_does_not_become_http_unless_asked_for(
    certified: Certified, server: Site, downloads: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certified.authority))
    certified.site.redirects["/moved.img"] = server.put("x.img", CONTENT)
    url = f"{certified.site.url}/moved.img#sha256={SHA256}"
    assert downloads.refused(url) == (
        f"{certified.site.url}/moved.img redirects to {server.url}/x.img, and anybody on the way can read and change "
        "what comes by http; take another URL, or put insecure after its #"
    )
    assert downloads.get(f"{url}&insecure") == CONTENT


def test_a_proxy_of_the_environment_is_used_for_both_and_not_where_it_is_not_wanted(
    certified: Certified, server: Site, downloads: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certified.authority))
    plain, secure = pinned(server.put("x.img", CONTENT)), f"{certified.site.put('x.img', CONTENT)}#sha256={SHA256}"
    with proxy("Basic bWU6czNjcmV0") as other:
        monkeypatch.setenv("http_proxy", f"http://me:s3cret@127.0.0.1:{other.port}")
        monkeypatch.setenv("https_proxy", f"http://me:s3cret@127.0.0.1:{other.port}")
        assert (downloads.get(plain), downloads.get(secure)) == (CONTENT, CONTENT)
        assert [line.split()[0] for line in other.asked] == ["GET", "CONNECT"]
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{other.port}")
        refused = downloads.refused(secure)
        assert "cannot be had through the proxy of the environment: Tunnel connection failed: 407" in refused
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert downloads.get(secure) == CONTENT
    monkeypatch.delenv("no_proxy")
    for written, shown in (
        ("socks5://me:s3cret@127.0.0.1:1", r"socks5://127\.0\.0\.1:1"),
        ("http://me:s3cret@[", "http://…"),
    ):
        monkeypatch.setenv("https_proxy", written)
        with pytest.raises(ConfigurationError, match=rf"^{shown}, which HTTP_PROXY, .* is no proxy that can"):
            downloads.get(secure)


# Several processes, kills, full disks.

PROGRAM = """
import pathlib, signal, sys
from pytest_readonly_vm.config.image_url import ImageUrl
from pytest_readonly_vm.sources.download.from_url import downloaded
signal.signal(signal.SIGINT, signal.default_int_handler)  # which who runs us may have had ignored
folder = pathlib.Path(sys.argv[2])
say = lambda *words: print(*words, flush=True)
with downloaded(ImageUrl.parse(sys.argv[1]), folder, limit=1 << 30, progress=lambda *_: None, tell=say,
                warn=lambda _: None) as found:
    say("whole", found.sha256)
    sys.stdin.readline()
"""


def test_a_second_process_waits_and_finds_what_the_first_has_brought(server: Site, downloads: Downloads) -> None:
    gate = threading.Event()
    url = pinned(server.put("x.img", CONTENT, Fault(cut=PART, then=gate.wait)))
    with program(PROGRAM, url, downloads.folder) as first:
        wait_for(lambda: list(downloads.folder.glob("*.part")))
        second = threading.Thread(target=downloads.get, args=(url,))
        second.start()
        wait_for(lambda: downloads.progress)
        assert downloads.told == [f"waiting for process {first.pid}, which downloads x.img"]
        assert downloads.progress[0][0] == f"downloading x.img, by process {first.pid}"
        gate.set()
        assert says(first) == f"whole sha256:{SHA256}"
        assert first.stdin is not None
        first.stdin.close()
        second.join()
    assert len(server.requests("x.img")) == 2  # of the first, which was cut
    assert downloads.left == []


def test_the_run_after_a_kill_goes_on_where_it_was(server: Site, downloads: Downloads) -> None:
    url = pinned(server.put("x.img", CONTENT, Fault(stall=PART)))
    with program(PROGRAM, url, downloads.folder) as killed:
        assert server.sending.acquire(timeout=GENEROUS)
        wait_for(lambda: any(path.stat().st_size == PART for path in downloads.folder.glob("*.part")))
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    assert downloads.left == [".json", ".lock", ".part"]
    assert downloads.get(url) == CONTENT
    assert server.asked[-1].headers["range"] == f"bytes={PART}-"
    assert downloads.left == []


def test_an_interrupt_leaves_what_can_be_gone_on_with(server: Site, downloads: Downloads) -> None:
    url = pinned(server.put("x.img", CONTENT, Fault(stall=PART)))
    with program(PROGRAM, url, downloads.folder) as interrupted:
        assert server.sending.acquire(timeout=GENEROUS)
        wait_for(lambda: any(path.stat().st_size == PART for path in downloads.folder.glob("*.part")))
        interrupted.send_signal(signal.SIGINT)
        assert interrupted.wait(GENEROUS) == -signal.SIGINT
    assert downloads.left == [".json", ".part"]
    assert downloads.get(url) == CONTENT


def test_a_whole_file_that_nobody_has_taken_is_compared_and_not_transferred_again(
    server: Site, downloads: Downloads
) -> None:
    url = pinned(server.put("x.img", CONTENT))
    with program(PROGRAM, url, downloads.folder) as killed:
        assert says(killed) == f"whole sha256:{SHA256}"
        killed.kill()
    assert downloads.get(url) == CONTENT
    assert len(server.asked) == 1
    with program(PROGRAM, url, downloads.folder) as killed:
        assert says(killed) == f"whole sha256:{SHA256}"
        killed.kill()
    [whole] = [path for path in downloads.folder.iterdir() if not path.suffix]
    whole.write_bytes(CONTENT[::-1])
    assert downloads.get(url) == CONTENT
    assert len(server.asked) == 3


def test_one_that_is_stopped_is_not_waited_for_without_end(
    server: Site, downloads: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "STOPPED_PATIENCE", 0.05)
    url = pinned(server.put("x.img", CONTENT, Fault(stall=PART)))
    with program(PROGRAM, url, downloads.folder) as stopped:
        assert server.sending.acquire(timeout=GENEROUS)
        stopped.send_signal(signal.SIGSTOP)
        with pytest.raises(HostError, match=f"process {stopped.pid} downloads x.img and is stopped, by Ctrl-Z"):
            downloads.get(url)


def test_after_an_error_of_who_has_it_nothing_is_left(server: Site, downloads: Downloads) -> None:
    image = ImageUrl.parse(pinned(server.put("x.img", CONTENT)))
    with (
        pytest.raises(OSError, match="unpacking"),
        downloaded(
            image, downloads.folder, limit=1 << 30, progress=lambda *_: None, tell=pytest.fail, warn=lambda _: None
        ),
    ):
        raise OSError("unpacking")
    assert downloads.left == []


def test_a_full_disk_is_a_sentence_and_leaves_nothing(server: Site, tmp_path: Path) -> None:
    lies = Fault(chunked=True)  # so that nobody knows before how long it is
    urls = [pinned(server.put("x.img", CONTENT)), pinned(server.put("y.img", CONTENT, lies))]
    small = tmp_path / "small"
    small.mkdir()
    for url, sentence in zip(
        urls, ("has 1 MiB free, too little for the 3 MiB of x.img", "cannot take the"), strict=True
    ):
        command = f'mount -t tmpfs -o size=2m none {small} && "$@"; ls {small}'
        done = subprocess.run(
            [*own_mounts(), "sh", "-c", command, "sh", sys.executable, "-c", PROGRAM, url, str(small)],
            capture_output=True, text=True, check=False, timeout=GENEROUS,
        )  # fmt: skip
        assert done.stdout == ""
        last = done.stderr.splitlines()[-1]
        assert last.startswith("pytest_readonly_vm.OutOfSpace: ")
        assert sentence in last
        assert last.endswith("; make room, or name another folder by --vm-image-store=DIR")


def test_a_limit_for_files_is_a_sentence_and_leaves_nothing(server: Site, downloads: Downloads) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    url = pinned(server.put("x.img", CONTENT))
    resource.setrlimit(resource.RLIMIT_FSIZE, (PART, before[1]))
    try:
        sentence = downloads.refused(url)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert f"a file of this process may have no more than {PART} bytes (ulimit -f)" in sentence


def test_what_nobody_has_gone_on_with_for_weeks_goes(server: Site, downloads: Downloads) -> None:
    for name in ("dead.part", "dead.json", "held.part"):
        (downloads.folder / name).write_bytes(b"")
        os.utime(downloads.folder / name, (0, 0))
    lock = try_lock(downloads.folder / "held.lock", make=0o600)
    assert lock is not None
    with lock:
        downloads.get(pinned(server.put("x.img", CONTENT)))
    assert {path.name for path in downloads.folder.iterdir()} >= {"held.part", "held.lock"}
    assert not list(downloads.folder.glob("dead.*"))


def test_without_urllib3_the_sentence_has_the_command(downloads: Downloads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "urllib3", None)
    with pytest.raises(HostError, match=r"need urllib3: pip install 'pytest-readonly-vm\[images\]'"):
        downloads.get(f"https://example.org/x.img#sha256={SHA256}")


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until something is so that no event tells of."""
    from time import monotonic, sleep

    deadline = monotonic() + GENEROUS
    while not condition():
        assert monotonic() < deadline
        sleep(0.005)
