"""An image from a registry is the disk that its manifest leads to, compared, and had by the user's own login."""

import base64
import gzip
import hashlib
import http.server
import importlib
import json
import os
import platform
import random
import resource
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trustme

from pytest_readonly_vm import ConfigurationError, DownloadError, VmError
from pytest_readonly_vm.config.oci_reference import OciReference
from pytest_readonly_vm.sources.download import tries
from pytest_readonly_vm.sources.download.from_registry import downloaded_from_registry, locate_in_registry
from tests.registry import LAYER, LOGIN, TITLE, Registry, layer, packed, registry, with_password
from tests.sparse_member import sparse_member
from tests.web_server import serving
from tests.web_tokens import TOKEN_LOGIN, token_server

DISK = random.Random(11).randbytes(1 << 18) + bytes(1 << 18)
SHA256 = hashlib.sha256(DISK).hexdigest()
OTHER = b"another disk"
NESTED = b"[" * 100_000
REPEATED = b"data" * (1 << 20)
"""4 MiB without zeros, which take little when they are packed."""


@dataclass
class Images:
    """A folder for downloads, and what was told of them."""

    host: str
    folder: Path
    warned: list[str] = field(default_factory=list)
    progress: list[int] = field(default_factory=list)

    def reference(self, tag: str) -> OciReference:
        return OciReference.parse(f"oci://{self.host}/images{tag}")

    def get(
        self, tag: str, *, arch: str | None = None, limit: int = 1 << 30, on_progress: Callable[[int], object] = id
    ) -> bytes:
        """The disk, of which nothing is left."""

        def progress(what: str, done: int, size: int | None) -> None:
            assert what.startswith("downloading ")
            self.progress.append(done)
            on_progress(done)

        with downloaded_from_registry(
            self.reference(tag),
            self.folder,
            arch=arch,
            limit=limit,
            progress=progress,
            tell=pytest.fail,
            warn=self.warned.append,
        ) as found:
            content = found.path.read_bytes()
            assert found.sha256.hex == hashlib.sha256(content).hexdigest()
            assert found.located == locate_in_registry(self.reference(tag), arch=arch, warn=pytest.fail)
        assert list(self.folder.iterdir()) == []
        return content

    def refused(self, tag: str, *, arch: str | None = None, limit: int = 1 << 30) -> str:
        """The sentence, without the name of the image; nothing is left."""
        with pytest.raises(VmError) as refusal:
            self.get(tag, arch=arch, limit=limit)
        assert list(self.folder.iterdir()) == []
        return str(refusal.value).replace(f"{self.reference(tag)}", "IMAGE")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry(tmp_path_factory.mktemp("registry")) as found:
        yield found


@pytest.fixture
def images(shelf: Registry, tmp_path: Path) -> Images:
    return Images(shelf.host, downloads(tmp_path))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The certificate of an authority that has signed nothing."""
    path = tmp_path_factory.mktemp("authority") / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(path))
    return path


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, authority: Path) -> Path:
    """A home without any login; short pauses; and few certificates, as the system's take 0.1 s to read."""
    monkeypatch.setattr(tries, "FIRST_PAUSE", 0.001)
    for name in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    for name in [name for name in os.environ if name.lower().endswith(("_proxy", "_ca_bundle"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    return home


def downloads(tmp_path: Path) -> Path:
    folder = tmp_path / "downloads"
    folder.mkdir()
    return folder


def zstd(tar: bytes) -> bytes:
    module = importlib.import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    found: bytes = module.compress(tar)
    return found


# Containerdisks.


@pytest.mark.parametrize("pack", [packed, zstd, bytes], ids=["gzip", "zstd", "not packed"])
@pytest.mark.parametrize("name", ["disk/x.qcow2", "/disk/disk.img", "./disk/x"])
def test_the_disk_of_a_containerdisk_comes(
    shelf: Registry, images: Images, pack: Callable[[bytes], bytes], name: str
) -> None:
    content = layer({"etc/passwd": b"root", name: DISK, "disk/sub/other": b"no", "disk/.keep": b""})
    shelf.artefact("one", shelf.blob(pack(content), LAYER))
    assert images.get(":one") == DISK
    assert images.warned == []


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([{"disk/a": OTHER}, {"disk/a": DISK}], DISK),
        ([{"disk/a": OTHER}, {"disk/b": DISK}], DISK),
        ([{"disk/a": DISK}, {"etc/label": b"later"}], DISK),
        ([{"disk/a": DISK}, {"disk/b": OTHER}, {"disk/.wh.b": b""}], DISK),
        ([{"disk/a": OTHER}, {".wh.disk": b"", "disk/b": DISK}], DISK),
    ],
    ids=["the same name", "another name", "nothing after it", "one removed", "all replaced"],
)
def test_the_last_layer_with_a_disk_counts(
    shelf: Registry, images: Images, layers: list[dict[str, bytes]], expected: bytes
) -> None:
    shelf.artefact("layers", *(shelf.blob(packed(layer(one)), LAYER) for one in layers))
    assert images.get(":layers") == expected


@pytest.mark.parametrize(
    ("layers", "sentence"),
    [
        ([{"etc/passwd": b""}], "has no disk: there is no file in the folder /disk of any of its layers"),
        ([{"disk/a": DISK}, {"disk/.wh..wh..opq": b""}], "has no disk: there is no file in the folder /disk"),
        ([{"disk/a": DISK}, {".wh.disk": b""}], "has no disk: there is no file in the folder /disk"),
        ([{"disk/a": DISK}, {"disk/.wh.a": b""}], "has no disk: there is no file in the folder /disk"),
        ([{"disk/b": DISK, "disk/a": OTHER}], "several disks, and which one is meant cannot be told: disk/a, disk/b"),
    ],
    ids=["no disk", "removed by an opaque folder", "folder removed", "removed", "two"],
)
def test_without_one_disk_it_is_a_sentence(
    shelf: Registry, images: Images, layers: list[dict[str, bytes]], sentence: str
) -> None:
    shelf.artefact("without", *(shelf.blob(packed(layer(one)), LAYER) for one in layers))
    assert sentence in images.refused(":without")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (packed(layer({}, links=["disk/a"])), "has a symbolic link in the place of its disk, disk/a"),
        (packed(layer({"disk/a": DISK}))[:-1000], "is truncated: it ends within what gzip has packed"),
        (layer({"disk/a": DISK})[: 1 << 17], "is damaged or truncated, tar finds:"),
        (b"no archive at all", "is damaged or truncated, tar finds:"),
        (gzip.compress(layer({"etc/zeros": bytes(40 << 20)})), "has a layer of more than 16 times what the store of"),
        (packed(layer({"disk/a": REPEATED})), "disk/a is too large: more than the 2 MiB that the store of images may"),
        (
            sparse_member("disk/a", DISK[:99], 1 << 60) + layer({}),
            "disk/a is too large: more than 4 times what the store",
        ),
        (
            sparse_member("disk/a", DISK[:99], 8 << 20) * 5 + layer({}),
            "has a layer of more than 16 times what the store",
        ),
        (sparse_member("disk/.a", DISK[:99], 1 << 60) + layer({}), "has no disk"),
    ],
    ids=["a link", "truncated", "truncated tar", "no tar", "a bomb", "too large", "a hole", "holes", "another's hole"],
)
def test_a_layer_that_is_none_is_a_sentence(shelf: Registry, images: Images, content: bytes, sentence: str) -> None:
    shelf.artefact("bad", shelf.blob(content, LAYER))
    assert sentence in images.refused(":bad", limit=2 << 20)


def test_a_limit_for_files_is_a_sentence_and_leaves_nothing(shelf: Registry, images: Images) -> None:
    shelf.artefact("large", shelf.blob(packed(layer({"disk/a": REPEATED})), LAYER))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        sentence = images.refused(":large")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "cannot take the 4 MiB of IMAGE: a file of this process may have no more than 1048576 bytes" in sentence


# Artefacts and indexes.


@pytest.mark.parametrize(
    ("kind", "annotations"),
    [(LAYER, {TITLE: "x.qcow2"}), ("application/x-qemu-disk", {}), ("application/x-qemu-disk", {TITLE: "x.qcow2"})],
)
def test_the_file_of_an_artefact_comes_as_it_is(
    shelf: Registry, images: Images, kind: str, annotations: dict[str, str]
) -> None:
    shelf.artefact("file", shelf.blob(packed(DISK), kind, **annotations))
    assert images.get(":file") == packed(DISK)


def test_several_files_are_listed(shelf: Registry, images: Images) -> None:
    one, other = (
        shelf.blob(content, LAYER, **{TITLE: name}) for content, name in ((DISK, "a.img"), (OTHER, "b\x1b[m"))
    )
    shelf.artefact("several", one, other)
    sentence = "IMAGE has several files, and which one is the disk cannot be told: a.img, b"
    assert images.refused(":several") == sentence


def test_of_an_index_the_one_for_the_guests_architecture_is_taken(shelf: Registry, images: Images) -> None:
    parts = [
        shelf.artefact(
            f"part-{arch}", shelf.blob(arch.encode(), "x/disk"), platform={"architecture": arch, "os": "linux"}
        )
        for arch in ("amd64", "arm64", "riscv64")
    ]
    shelf.index("all", *parts, parts[0] | {"platform": {"architecture": "unknown", "os": "unknown"}})
    assert images.get(":all", arch="aarch64") == b"arm64"
    assert images.get(":all", arch="riscv64") == b"riscv64"
    assert images.get(":all") == {"x86_64": b"amd64", "aarch64": b"arm64"}[platform.machine()]
    sentence = "IMAGE has no image for s390x (s390x); those that it has are for: amd64, arm64, riscv64"
    assert images.refused(":all", arch="s390x") == sentence
    shelf.index("double", parts[0], parts[1] | {"platform": parts[0]["platform"]})
    digests = f"{parts[0]['digest']}, {parts[1]['digest']}"
    assert images.refused(":double", arch="x86_64") == (
        f"IMAGE has several images for x86_64; write one behind it, after @: {digests}"
    )
    shelf.index("plain", {key: value for key, value in parts[0].items() if key != "platform"})
    assert images.get(":plain", arch="aarch64") == b"amd64"


def test_a_tag_leads_to_a_digest_which_stays(shelf: Registry, images: Images) -> None:
    before = shelf.artefact("moving", shelf.blob(OTHER, "x/disk"))
    found = locate_in_registry(images.reference(":moving"), arch=None, warn=pytest.fail)
    assert (str(found.digest), found.size) == (before["digest"], len(OTHER))
    after = shelf.artefact("moving", shelf.blob(DISK, "x/disk"))
    assert after["digest"] != before["digest"]
    assert images.get(":moving") == DISK
    assert images.get(f":moving@{found.digest}") == OTHER
    assert images.get(f"@{found.digest}") == OTHER


def test_what_is_not_there_is_a_sentence(images: Images) -> None:
    assert images.refused(":none") == "IMAGE: the registry answers 404 Not Found"
    assert images.refused(f"@sha256:{'0' * 64}") == "IMAGE: the registry answers 404 Not Found"


def test_a_blob_and_a_manifest_that_were_changed_are_refused(shelf: Registry, images: Images) -> None:
    blob = shelf.blob(b"good content", "x/disk")
    manifest = shelf.artefact("changed", blob)
    shelf.data_of(blob["digest"]).write_bytes(b"evil content")
    assert (
        f"is not the file that is wanted: its digest is sha256:{hashlib.sha256(b'evil content').hexdigest()}, and the"
        in (images.refused(":changed"))
    )
    file = shelf.data_of(manifest["digest"])
    file.write_bytes(file.read_bytes() + b"\n")
    assert "is another manifest than its digest says" in images.refused(f"@{manifest['digest']}")


@pytest.mark.parametrize(
    ("manifest", "sentence"),
    [
        ({"layers": [{"digest": "sha256:12", "size": 1}]}, "has a manifest that cannot be read: 'sha256:12' has 2"),
        ({"layers": [{"size": "1"}]}, "has a manifest that cannot be read: a layer has no size"),
        ({"layers": []}, "is empty"),
        ({"layers": 7}, "is empty"),
        ({"mediaType": "application/x"}, "is no image with layers, but application/x"),
        ([], "is no manifest of an image"),
        (NESTED, "is no manifest of an image"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_a_sentence(tmp_path: Path, manifest: Any, sentence: str) -> None:
    """Of a registry that takes what the real one does not."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = manifest if manifest is NESTED else json.dumps(manifest).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/vnd.oci.image.manifest.v1+json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with serving(Handler) as port:
        assert sentence in Images(f"127.0.0.1:{port}", downloads(tmp_path)).refused(":any")


def test_a_blob_that_was_interrupted_is_gone_on_with(shelf: Registry, images: Images) -> None:
    content = random.Random(5).randbytes(8 << 20)
    shelf.artefact("long", shelf.blob(content, "x/disk"))

    def interrupt(done: int) -> None:
        if done > 1 << 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        images.get(":long", on_progress=interrupt)
    [size] = [path.stat().st_size for path in images.folder.glob("*.part")]
    images.progress.clear()
    assert images.get(":long") == content
    assert images.progress[0] == size > 1 << 20


# Logins.


@dataclass
class Guarded:
    """A registry that wants a password, with one image."""

    images: Images
    home: Path

    def write(self, place: str, content: Mapping[str, Any]) -> None:
        path = self.home / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))


def basic(user: str = LOGIN[0], password: str = LOGIN[1]) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.fixture(scope="module")
def guarded_shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    folder = tmp_path_factory.mktemp("guarded")
    with registry(folder, with_password(folder), authorization=f"Basic {basic()}") as found:
        found.artefact("latest", found.blob(DISK, "x/disk"))
        yield found


@pytest.fixture
def guarded(guarded_shelf: Registry, tmp_path: Path, home: Path) -> Guarded:
    return Guarded(Images(guarded_shelf.host, downloads(tmp_path)), home)


@pytest.mark.parametrize("place", [".docker/config.json", ".config/containers/auth.json"])
@pytest.mark.parametrize("key", ["{}", "https://{}/v1/", "http://{}", "{}/images"])
def test_the_login_of_the_users_file_is_used(guarded: Guarded, place: str, key: str) -> None:
    guarded.write(place, {"auths": {key.format(guarded.images.host): {"auth": basic()}}})
    assert guarded.images.get("") == DISK


def test_the_files_of_the_environment_come_first(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    host = guarded.images.host
    guarded.write(".docker/config.json", {"auths": {host: {"auth": basic(password="old")}}})
    guarded.write("run/containers/auth.json", {"auths": {host: {"username": LOGIN[0], "password": LOGIN[1]}}})
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(guarded.home / "run"))
    assert guarded.images.get("") == DISK
    guarded.write("mine.json", {"auths": {host: {"auth": basic(password="wrong")}}})
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(guarded.home / "mine.json"))
    sentence = guarded.images.refused("")
    assert sentence == (
        "IMAGE: the registry answers 401 Unauthorized; it does not take the password that is kept for it: "
        f"docker login {host}, or podman login"
    )
    assert "wrong" not in sentence


def test_without_a_login_the_sentence_has_the_command(guarded: Guarded) -> None:
    assert guarded.images.refused("") == (
        f"IMAGE: the registry answers 401 Unauthorized; it knows nobody without a password: docker login "
        f"{guarded.images.host}, or podman login"
    )


@pytest.mark.parametrize("setting", ["credHelpers", "credsStore"])
def test_programs_for_passwords_are_asked(guarded: Guarded, monkeypatch: pytest.MonkeyPatch, setting: str) -> None:
    host = guarded.images.host
    guarded.write(".docker/config.json", {setting: {host: "mine"} if setting == "credHelpers" else "mine"})
    helper = guarded.home / "docker-credential-mine"
    monkeypatch.setenv("PATH", f"{guarded.home}:{os.environ['PATH']}")
    with pytest.raises(
        ConfigurationError, match=rf"^docker-credential-mine, which .* names for {host}, cannot be star"
    ):
        guarded.images.get("")
    answer = json.dumps({"ServerURL": host, "Username": LOGIN[0], "Secret": LOGIN[1]})
    helper.write_text(f'#!/bin/sh\n[ "$1" = get ] && [ "$(cat)" = "{host}" ] && echo \'{answer}\'\n')
    helper.chmod(helper.stat().st_mode | stat.S_IXUSR)
    assert guarded.images.get("") == DISK
    helper.write_text("#!/bin/sh\necho 's3cret leaks'; exit 3\n")
    with pytest.raises(ConfigurationError, match="exited with status 3") as error:
        guarded.images.get("")
    assert "s3cret" not in str(error.value)
    helper.write_text("#!/bin/sh\necho 'credentials not found in native keychain'; exit 1\n")
    assert "it knows nobody without a password" in guarded.images.refused("")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "it is not JSON"),
        ('{"auths": {"HOST": {"auth": "s3cret!"}}}', "one is not base64"),
        ('{"credHelpers": {"HOST": "../s3cret"}}', "names '../s3cret' as a program for passwords, which is none"),
    ],
)
def test_a_file_that_is_damaged_is_named(guarded: Guarded, content: str, sentence: str) -> None:
    guarded.write(".docker/config.json", {})
    (guarded.home / ".docker/config.json").write_text(content.replace("HOST", guarded.images.host))
    with pytest.raises(ConfigurationError, match=sentence) as error:
        guarded.images.get("")
    assert str(guarded.home / ".docker/config.json") in str(error.value)


@pytest.mark.parametrize("entry", [{"auth": basic(*TOKEN_LOGIN)}, {"auth": basic("x", ""), "identitytoken": "s3cret"}])
def test_a_registry_with_tokens_is_shown_one(tmp_path: Path, home: Path, entry: dict[str, str]) -> None:
    with token_server(tmp_path) as tokens, registry(tmp_path, tokens.section) as shelf:
        pushing = Registry(shelf.host, shelf.folder, f"Bearer {tokens.token('push,pull')}")
        pushing.artefact("latest", pushing.blob(DISK, "x/disk"))
        images = Images(shelf.host, downloads(tmp_path))
        assert "answers 401 Unauthorized; it knows nobody without a password" in images.refused("")
        (home / ".docker").mkdir()
        (home / ".docker/config.json").write_text(json.dumps({"auths": {shelf.host: entry}}))
        assert images.get("") == DISK
        assert tokens.asked[-1] == "pull"


@pytest.mark.parametrize(
    ("realm", "sentence"),
    [
        ("https://[", "sends whoever asks for a token to no URL"),
        ("https://me:s3cret/t", "sends whoever asks for a token to no URL"),
        ("https://", "sends whoever asks for a token to no URL"),
        ("", "sends whoever asks for a token to no URL"),
        ("http://%00/", "cannot be read as a URL"),
        ("ftp://me:s3cret@example.org/", "sends whoever asks to ftp://example.org/ for a token, which is not by https"),
    ],
)
def test_a_place_for_tokens_that_makes_no_sense_is_a_sentence(tmp_path: Path, realm: str, sentence: str) -> None:
    class Sending(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(401)
            self.send_header("WWW-Authenticate", f'Bearer realm="{realm}",service="x"')
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with serving(Sending) as port, pytest.raises(DownloadError, match=sentence) as error:
        Images(f"127.0.0.1:{port}", downloads(tmp_path)).get(":any")
    assert "s3cret" not in str(error.value)


def test_a_registry_by_https_is_not_spoken_to_by_http(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signer = trustme.CA()
    certificate = signer.issue_cert("127.0.0.1")
    for name, part in (("cert", certificate.cert_chain_pems[0]), ("key", certificate.private_key_pem)):
        part.write_to_path(str(tmp_path / name))
    signer.cert_pem.write_to_path(str(tmp_path / "ca"))
    tls = f"http: {{addr: '127.0.0.1:0', tls: {{certificate: '{tmp_path}/cert', key: '{tmp_path}/key'}}}}"
    with registry(tmp_path, tls) as shelf:
        images = Images(shelf.host, downloads(tmp_path))
        assert "the server's certificate is not trusted" in images.refused(":any")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca"))
        assert images.refused(":any") == "IMAGE: the registry answers 404 Not Found"


def test_what_is_on_this_computer_does_not_pass_by_a_proxy(
    shelf: Registry, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    shelf.artefact("here", shelf.blob(DISK, "x/disk"))
    assert images.get(":here") == DISK


def test_nobody_there_is_a_sentence(tmp_path: Path) -> None:
    with serving(http.server.BaseHTTPRequestHandler) as port:
        pass
    with pytest.raises(DownloadError, match=r"cannot be connected to: Connection refused, 5 times in a row"):
        Images(f"127.0.0.1:{port}", downloads(tmp_path)).get(":any")
