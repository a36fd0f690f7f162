"""How an image on the network is named, and what is refused of it and of servers before any machine starts."""

import contextlib
import hashlib
import os
import shutil
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from pytest_readonly_vm.config.image_reference import ImageReference, image
from pytest_readonly_vm.config.network_image import NetworkImage
from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.errors import DownloadError, ImageError, ImageWarning, VmError
from pytest_readonly_vm.image.network_file import NetworkFile
from pytest_readonly_vm.sources.image_sources import ImageSources
from tests.guests import bootsector
from tests.nbd import Nbdkit, saying
from tests.ports import port_to_come
from tests.qemu.image_tools import run
from tests.qemu.waiting import GENEROUS
from tests.web_server import Fault, Site, site

TIMEOUT = 1.0
"""Seconds that servers have that do not answer; the others have as many as a busy computer takes."""
QEMU_IMG = Path(shutil.which("qemu-img") or "")
HEX = "ab" * 32
HELLO = struct.pack(">8s8sH", b"NBDMAGIC", b"IHAVEOPT", 1)


def reply(kind: int, length: int, data: bytes = b"") -> bytes:
    """What is said to the wish to have an export."""
    return HELLO + struct.pack(">QIII", 0x3E889045565A9, 7, kind, length) + data


def place(written: str) -> NetworkImage:
    found = image(written)
    assert isinstance(found, ImageReference)
    assert isinstance(found.place, NetworkImage)
    return found.place


@pytest.mark.parametrize(
    ("written", "shown", "export", "where"),
    [
        ("nbd+unix:///?socket=/run/a.sock", "nbd+unix:///?socket=/run/a.sock", "", "/run/a.sock"),
        ("nbd+unix:///x/y?socket=/a%20b", "nbd+unix:///x/y?socket=/a%20b", "x/y", "/a b"),
        ("nbds://farm.example/debian", "nbds://farm.example/debian", "debian", ("farm.example", 10809)),
        ("nbd://127.0.0.1:10/a", "nbd://127.0.0.1:10/a", "a", ("127.0.0.1", 10)),
        ("nbd://farm.example/a#insecure", "nbd://farm.example/a", "a", ("farm.example", 10809)),
    ],
)
def test_an_export_is_named_as_nbd_does(written: str, shown: str, export: str, where: object) -> None:
    found = place(written)
    assert (str(found), found.export, found.socket or found.host) == (shown, export, where)


def test_a_file_of_a_web_server_is_shown_without_secrets() -> None:
    found = place(f"ranges+https://me:pass@example.org/a.qcow2?sig=1#sha256={HEX}")
    assert (str(found), str(found.digest)) == ("ranges+https://example.org/a.qcow2?…", f"sha256:{HEX}")
    assert found.url == "https://me:pass@example.org/a.qcow2?sig=1"
    assert "pass" not in repr(found)


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("nbd://farm.example/a", "anybody on the way can read and change what comes by nbd; write nbds://"),
        ("ranges+http://example.org/a", "anybody on the way can read and change what comes by http"),
        ("nbd+unix:///a", r"write nbd\+unix:///EXPORT\?socket=PATH"),
        ("nbd+unix:///a?socket=here", r"write nbd\+unix:///EXPORT\?socket=PATH"),
        ("nbd+unix://host/a?socket=/x", r"write nbd\+unix:///EXPORT\?socket=PATH"),
        ("nbds://me:pass@host/a", "^NBD knows no user and no password; leave out what is before the @$"),
        ("nbds:///a", "the URL names no host"),
        ("nbds://host/a?tls=1", r"nothing is known that could be said behind the \?"),
        ("nbds://host/a b", "no spaces"),
        ("ranges+ftp://host/a", r"ranges\+ftp:// is none of https://, http://, oci://, nbd\+unix://"),
        ("nbds://host/a#md5=1", "is no digest"),
    ],
)
def test_what_is_no_such_name_is_refused(written: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        image(written)


Open = Callable[..., NetworkFile]


@pytest.fixture
def opened() -> Iterator[Open]:
    sources = ImageSources(pytest.fail)
    files: list[NetworkFile] = []

    def connect(url: str, format: str | None = None, **settings: object) -> NetworkFile:
        config = VmConfig().replace(**{"image_timeout": GENEROUS} | settings)
        files.append(sources.connect(place(url), config, format=format, shown="base image X", qemu_img=QEMU_IMG))
        return files[-1]

    yield connect
    for file in files:
        file.close()
    sources.close()


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return bootsector.write_image(tmp_path / "disk.img", bootsector.hello("hello"))


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (b"", "has had no answer from its server for 1 s"),
        (b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n", "is on a server that does not speak NBD as it is spoken since 2014"),
        (HELLO, "has had no answer from its server for 1 s"),
        (reply(1 << 31 | 6, 4, b"gone"), "is no export of its server: gone"),
        (reply(1 << 31 | 5, 0), "is given by TLS only; write nbds://"),
        (reply(3, 1 << 30), "is on a server that does not answer as NBD does"),
        (HELLO + b"\xff" * 20, "is on a server that does not answer as NBD does"),
    ],
    ids=["nothing", "another protocol", "stalls", "no export", "TLS", "endless", "garbage"],
)
def test_a_server_that_is_none_is_told_in_time(opened: Open, tmp_path: Path, words: bytes, why: str) -> None:
    with saying(tmp_path / "sock", words) as url:
        began = time.monotonic()
        patience = TIMEOUT if "no answer" in why else GENEROUS
        with pytest.raises(DownloadError, match=f"^base image X {why}"):
            opened(url, image_timeout=patience)
        assert time.monotonic() - began < GENEROUS / 2
        with pytest.raises(DownloadError, match="not tried again in this run"):
            opened(url, image_timeout=patience)


def test_tls_is_for_who_trusts_its_certificate(
    opened: Open, tmp_path: Path, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca-cert.pem"))
    own = authority.issue_cert("localhost")
    own.private_key_pem.write_to_path(str(tmp_path / "server-key.pem"))
    own.cert_chain_pems[0].write_to_path(str(tmp_path / "server-cert.pem"))
    port = port_to_come()
    options = ("--tls=require", f"--tls-certificates={tmp_path}", "-i", "127.0.0.1", "-p", str(port))
    with Nbdkit(None, disk, options=options) as server:
        with pytest.raises(DownloadError, match="its certificate is not trusted"):
            opened(f"nbds://localhost:{port}/a")
        with pytest.raises(DownloadError, match="is given by TLS only; write nbds://"):
            opened(f"nbd://localhost:{port}/a")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca-cert.pem"))
        file = opened(f"nbds://localhost:{port}/b")
        assert file.read(0, 512) == disk.read_bytes()[:512]
        assert server.socket is None


def test_a_socket_without_a_server_is_told(opened: Open, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="cannot be connected to: No such file or directory"):
        opened(f"nbd+unix:///?socket={tmp_path}/none")


def test_a_qcow2_is_read_where_it_is(opened: Open, tmp_path: Path, disk: Path) -> None:
    run("qemu-img", "convert", "-O", "qcow2", str(disk), str(tmp_path / "disk.qcow2"))
    with Nbdkit(tmp_path / "sock", tmp_path / "disk.qcow2") as server:
        file = opened(server.url)
        assert (file.format, file.virtual_size) == ("qcow2", disk.stat().st_size)
        assert file.sha256() == hashlib.sha256((tmp_path / "disk.qcow2").read_bytes()).hexdigest()
        assert (file.difference(), file.fingerprint.is_lasting) == (None, False)


class TestALine:
    """What a process gets that reads an image: QEMU, in which a guest may have come to power."""

    @pytest.fixture
    def line(self, opened: Open, tmp_path: Path, disk: Path) -> Iterator[socket.socket]:
        with Nbdkit(tmp_path / "sock", disk) as server:
            line = opened(server.url).reader.lend(lambda trouble: None)
            with line.socket as connected:
                connected.settimeout(GENEROUS)
                yield connected
            line.close()

    def begin(self, line: socket.socket) -> None:
        assert self.take(line, 18)[:16] == b"NBDMAGICIHAVEOPT"
        line.sendall(struct.pack(">I8sII", 3, b"IHAVEOPT", 1, 0))
        size, flags = struct.unpack(">QH", self.take(line, 10))
        assert (size, flags & 2) == (1 << 20, 2)

    def take(self, line: socket.socket, length: int) -> bytes:
        return line.recv(length, socket.MSG_WAITALL)

    def ask(self, line: socket.socket, kind: int, offset: int, length: int) -> int:
        """The error that is answered."""
        line.sendall(struct.pack(">IHHQQI", 0x25609513, 0, kind, 7, offset, length))
        magic, error, number = struct.unpack(">IIQ", self.take(line, 16))
        assert (magic, number) == (0x67446698, 7)
        return int(error)

    def test_it_reads_what_there_is(self, line: socket.socket, disk: Path) -> None:
        self.begin(line)
        for kind, offset, length in ((4, 0, 512), (6, 0, 512), (3, 0, 0), (99, 0, 0)):
            assert self.ask(line, kind, offset, length) == 1
        for offset, length in (((1 << 20) - 1, 2), (1 << 63, 1), (0, 1 << 31)):
            assert self.ask(line, 0, offset, length) == 22
        assert self.ask(line, 0, 100, 512) == 0
        assert self.take(line, 512) == disk.read_bytes()[100:612]

    def test_a_write_ends_it_and_arrives_nowhere(self, line: socket.socket, disk: Path) -> None:
        before = disk.read_bytes()
        self.begin(line)
        line.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 1, 7, 0, 512) + b"x" * 512)
        with contextlib.suppress(ConnectionResetError):
            assert line.recv(1) == b""
        assert disk.read_bytes() == before

    @pytest.mark.parametrize("words", [b"\xff" * 64, struct.pack(">I8sII", 3, b"IHAVEOPT", 7, 1 << 31)])
    def test_what_is_no_wish_ends_it(self, line: socket.socket, words: bytes) -> None:
        self.take(line, 18)
        line.sendall(words)
        with contextlib.suppress(ConnectionResetError):
            assert line.recv(1) == b""


def _backed(path: Path) -> None:
    run("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", "/etc/shadow", "-F", "raw", str(path), "1M")


def _damaged(path: Path) -> None:
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", str(path), "4M")
    with path.open("r+b") as file:
        os.pwrite(file.fileno(), b"\xff" * 64, 3 << 16)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (_backed, "takes another file, which a server's image must not name"),
        (_damaged, "is damaged or truncated: qemu-img check finds"),
        (lambda path: run("qemu-img", "create", "-q", "-f", "vmdk", str(path), "1M"), "is in none of the formats"),
        (lambda path: path.write_bytes(b"\x1f\x8b\x08" + bytes(2048)), "is packed, and is read where it is"),
        (lambda path: path.write_bytes(b"<html>\n</html>\n"), "is a web page and no disk"),
    ],
    ids=["backed", "damaged", "vmdk", "packed", "page"],
)
def test_what_cannot_be_a_base_is_refused(
    opened: Open, tmp_path: Path, make: Callable[[Path], object], why: str
) -> None:
    make(tmp_path / "disk")
    with Nbdkit(tmp_path / "sock", tmp_path / "disk") as server, pytest.raises(ImageError, match=f"X {why}"):
        opened(server.url)


@pytest.fixture
def server() -> Iterator[Site]:
    with site() as found:
        yield found


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (Fault(no_range=True), r"is not given in parts by its server \(no Accept-Ranges\); have it downloaded"),
        (Fault(status=404), "is refused: 404 Not Found"),
        (Fault(status=503), "answers 503 Service Unavailable"),
        (Fault(stall=0), "has had no answer from its server for 1 s|sent nothing for 1 s"),
        (Fault(headers={"Content-Range": "bytes 5-5/100"}), "in parts that are not those which were asked for"),
        (Fault(headers={"Content-Range": "bytes 0-0/*"}), "in parts that are not those which were asked for"),
        (Fault(headers={"Content-Encoding": "gzip"}), "in parts that are not those which were asked for"),
    ],
    ids=["no ranges", "404", "503", "stalls", "another part", "no size", "packed on the way"],
)
def test_a_web_server_that_does_not_give_parts_is_told(opened: Open, server: Site, fault: Fault, why: str) -> None:
    url = server.put("a", b"x" * 1000, fault).replace("://", "://me:s3cret@")
    patience = TIMEOUT if fault.stall is not None else GENEROUS
    with pytest.raises(DownloadError, match=why) as refused:
        opened(f"ranges+{url}?sig=s3cret#insecure", image_timeout=patience)
    assert "s3cret" not in str(refused.value)


class TestADigest:
    @pytest.fixture
    def digest(self, disk: Path) -> str:
        return hashlib.sha256(disk.read_bytes()).hexdigest()

    def url(self, server: Site, disk: Path, digest: str) -> str:
        return f"ranges+{server.put('disk', disk.read_bytes())}#insecure&sha256={digest}"

    def test_that_the_server_tells_is_compared(self, opened: Open, server: Site, disk: Path, digest: str) -> None:
        import base64

        url = self.url(server, disk, HEX)
        told = base64.b64encode(bytes.fromhex(digest)).decode()
        server.files["/disk"].faults.append(Fault(headers={"Repr-Digest": f"sha-256=:{told}:"}))
        with pytest.raises(DownloadError, match=f"its server says sha256:{digest}, and what is written after # says"):
            opened(url)

    def test_that_nobody_tells_is_believed_aloud_or_made_of_all(
        self, opened: Open, server: Site, disk: Path, digest: str
    ) -> None:
        with pytest.warns(ImageWarning, match="is believed"):
            assert opened(self.url(server, disk, HEX)).fingerprint.is_lasting
        with pytest.raises(VmError, match=f"it has sha256:{digest}, and what is written after # says sha256:{HEX}"):
            opened(self.url(server, disk, HEX), verify="hash")
        opened(self.url(server, disk, digest), verify="hash")
