"""A registry is pushed to by the user's own login, and keeps an artefact as others do."""

import base64
import contextlib
import http.server
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_readonly_vm import ConfigurationError, HostError, RemoteError
from pytest_readonly_vm.remote.targets import open_remote
from pytest_readonly_vm.sources.download import web
from tests.registry import LOGIN, registry, with_password
from tests.unit.remote.parcels import ABOVE, FILES, KEY, parcel
from tests.web_tokens import TOKEN_LOGIN, token_server

NEW = sys.version_info >= (3, 14)


def test_the_login_of_the_user_pushes(tmp_path: Path) -> None:
    folder = tmp_path / "guarded"
    folder.mkdir()
    with registry(folder, with_password(folder)) as guarded:
        target = f"oci://{guarded.host}/team/frozen"
        with (
            open_remote(target, unsigned=True) as place,
            pytest.raises(RemoteError, match=r"knows nobody without a password: docker login"),
        ):
            place.push(parcel(tmp_path, FILES))
        login = base64.b64encode(":".join(LOGIN).encode()).decode()
        file = tmp_path / "home/.docker/config.json"
        file.parent.mkdir()
        file.write_text(json.dumps({"auths": {guarded.host: {"auth": login}}}))
        with open_remote(target, unsigned=True) as place:
            place.push(parcel(tmp_path / "again", FILES))
            assert place.keys() == [KEY]


def test_a_registry_with_tokens_is_asked_for_one_that_pushes(tmp_path: Path) -> None:
    login = base64.b64encode(":".join(TOKEN_LOGIN).encode()).decode()
    with token_server(tmp_path) as tokens, registry(tmp_path, tokens.section) as guarded:
        file = tmp_path / "home/.docker/config.json"
        file.parent.mkdir()
        file.write_text(json.dumps({"auths": {guarded.host: {"auth": login}}}))
        with open_remote(f"oci://{guarded.host}/images", unsigned=True) as place:
            place.push(parcel(tmp_path, FILES))
            assert place.find(KEY) is not None
        assert {"pull", "pull,push"} <= {",".join(sorted(one.split(","))) for one in tokens.asked}


class _NeverTaking(http.server.BaseHTTPRequestHandler):
    """A registry that begins an upload, and takes none of it."""

    closing = threading.Event()

    def do_GET(self) -> None:
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self.send_response(202)
        self.send_header("Location", "/upload")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_PUT(self) -> None:
        self.closing.wait()
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def never_taking() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _NeverTaking) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            _NeverTaking.closing.set()
            server.shutdown()
            thread.join()


def test_a_registry_that_takes_nothing_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "READ_PATIENCE", 0.2)
    monkeypatch.setattr(web, "CONNECT_PATIENCE", 0.2)
    with (
        never_taking() as host,
        open_remote(f"oci://{host}/team/frozen") as place,
        pytest.raises(RemoteError, match=r"2 times in a row; try again later"),
    ):
        place.push(parcel(tmp_path, FILES))


def test_two_that_push_at_once_lose_nothing(tmp_path: Path) -> None:
    def push(key: str) -> None:
        with open_remote(tmp_path / "place") as place:
            place.push(parcel(tmp_path / key[:4], FILES, key=key))

    threads = [threading.Thread(target=push, args=(digit * 64,)) for digit in "0123456789"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with open_remote(tmp_path / "place") as place:
        assert [key[0] for key in place.keys()] == list("0123456789")  # noqa: SIM118
        assert place.find("7" * 64) is not None


@pytest.mark.parametrize(
    "target",
    [f"oci://registry.example.org/team/frozen:{KEY}", "oci://Registry", "nowhere://there", "file://elsewhere/folder"],
)
def test_what_is_no_place_is_refused(target: str) -> None:
    with pytest.raises(ConfigurationError):
        open_remote(target)


@pytest.mark.parametrize(
    ("missing", "target", "package"),
    [("fsspec", "s3://x/y", "[remote]"), ("gcsfs", "gs://x/y", "gcsfs"), ("backports.zstd", "place", "[remote]")],
)
def test_what_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str, target: str, package: str
) -> None:
    def push() -> None:
        with open_remote(target) as place:
            place.push(parcel(tmp_path, FILES))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, missing.replace("backports", "compression" if NEW else "backports"), None)
    with pytest.raises(HostError) as error:
        push()
    assert package in str(error.value)


def test_a_name_that_no_computer_would_take_does_not_travel(tmp_path: Path) -> None:
    good = parcel(tmp_path, FILES, key=ABOVE)
    with open_remote(tmp_path / "place") as place:
        for bad in ({"../x": good.files["ram"]}, {}):
            with pytest.raises(ConfigurationError, match="cannot travel"):
                place.push(type(good)(ABOVE, {}, {}, bad))
