"""An image from a registry is had by the user's own login, and by https."""

import base64
import http.server
import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme

from pytest_readonly_vm import ConfigurationError, DownloadError
from tests.registry import LOGIN, Registry, registry, with_password
from tests.unit.download.images import DISK, Images
from tests.web_server import serving
from tests.web_tokens import TOKEN_LOGIN, token_server


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
def guarded(guarded_shelf: Registry, folder: Path, home: Path) -> Guarded:
    return Guarded(Images(guarded_shelf.host, folder), home)


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
def test_a_registry_with_tokens_is_shown_one(tmp_path: Path, folder: Path, home: Path, entry: dict[str, str]) -> None:
    with token_server(tmp_path) as tokens, registry(tmp_path, tokens.section) as shelf:
        pushing = Registry(shelf.host, shelf.folder, f"Bearer {tokens.token('push,pull')}")
        pushing.artefact("latest", pushing.blob(DISK, "x/disk"))
        images = Images(shelf.host, folder)
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
def test_a_place_for_tokens_that_makes_no_sense_is_a_sentence(folder: Path, realm: str, sentence: str) -> None:
    class Sending(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(401)
            self.send_header("WWW-Authenticate", f'Bearer realm="{realm}",service="x"')
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with serving(Sending) as port, pytest.raises(DownloadError, match=sentence) as error:
        Images(f"127.0.0.1:{port}", folder).get(":any")
    assert "s3cret" not in str(error.value)


def test_a_registry_by_https_is_not_spoken_to_by_http(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signer = trustme.CA()
    certificate = signer.issue_cert("127.0.0.1")
    for name, part in (("cert", certificate.cert_chain_pems[0]), ("key", certificate.private_key_pem)):
        part.write_to_path(str(tmp_path / name))
    signer.cert_pem.write_to_path(str(tmp_path / "ca"))
    tls = f"http: {{addr: '127.0.0.1:0', tls: {{certificate: '{tmp_path}/cert', key: '{tmp_path}/key'}}}}"
    with registry(tmp_path, tls) as shelf:
        images = Images(shelf.host, folder)
        assert "the server's certificate is not trusted" in images.refused(":any")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca"))
        assert images.refused(":any") == "IMAGE: the registry answers 404 Not Found"


def test_nobody_there_is_a_sentence(folder: Path) -> None:
    with serving(http.server.BaseHTTPRequestHandler) as port:
        pass
    with pytest.raises(DownloadError, match=r"cannot be connected to: Connection refused, 5 times in a row"):
        Images(f"127.0.0.1:{port}", folder).get(":any")
