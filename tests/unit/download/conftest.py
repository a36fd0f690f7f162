"""Fixtures of the tests of downloads: servers, folders, and a home without a login."""

import os
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from pytest_readonly_vm.sources.download import tries
from tests.registry import Registry, registry
from tests.unit.download.downloads import Certified, Downloads
from tests.unit.download.images import Images
from tests.web_server import Site, site


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What images are brought into."""
    folder = tmp_path / "downloads"
    folder.mkdir()
    return folder


@pytest.fixture
def downloads(folder: Path) -> Downloads:
    return Downloads(folder)


@pytest.fixture
def server() -> Iterator[Site]:
    with site() as found:
        yield found


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Certified]:
    authority = trustme.CA()
    file = tmp_path_factory.mktemp("authority") / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with site(context) as found:
        yield Certified(found, file)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry(tmp_path_factory.mktemp("registry")) as found:
        yield found


@pytest.fixture
def images(shelf: Registry, folder: Path) -> Images:
    return Images(shelf.host, folder)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The certificate of an authority that has signed nothing."""
    path = tmp_path_factory.mktemp("authority") / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(path))
    return path


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, authority: Path) -> Path:
    """A home without any login; short pauses; and few certificates, as the system's take 0.1 s to read.

    Of the environment in which the suite runs there is nothing.
    """
    monkeypatch.setattr(tries, "FIRST_PAUSE", 0.001)
    for name in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    for name in [name for name in os.environ if name.lower().endswith(("_proxy", "_ca_bundle"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    return home
