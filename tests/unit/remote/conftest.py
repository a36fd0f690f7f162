"""Fixtures of the tests of places: one of each kind, all real."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_readonly_vm.remote.remote_cache import RemoteCache
from pytest_readonly_vm.remote.targets import open_remote
from pytest_readonly_vm.sources.download import tries
from tests.hosts.ssh_hosts import SshHost, one_host
from tests.registry import Registry, registry
from tests.s3_server import BUCKET, s3_server
from tests.web_server import Site, site

Opener = Callable[..., RemoteCache]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any login, with short pauses."""
    monkeypatch.setattr(tries, "FIRST_PAUSE", 0.001)
    for name in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry(tmp_path_factory.mktemp("registry")) as found:
        yield found


@pytest.fixture(scope="session")
def buckets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with s3_server(tmp_path_factory.mktemp("s3")) as found:
        yield found


@pytest.fixture(scope="session")
def ssh_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshHost]:
    with one_host(tmp_path_factory.mktemp("ssh")) as found:
        yield found


@pytest.fixture
def known_host(ssh_host: SshHost, tmp_path: Path) -> SshHost:
    """A server that this user's ssh knows, and that lets it in."""
    own = tmp_path / "home/.ssh"
    own.mkdir(mode=0o700)
    shutil.copy(ssh_host.key, own / "id_ed25519")
    shutil.copy(ssh_host.folder / "known_hosts", own)
    return ssh_host


@pytest.fixture(params=["folder", "registry", "s3", "sftp"])
def target(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty place of each kind; by SFTP what is put is not seen as a whole, and so is renamed."""
    name = tmp_path.name.replace("_", "-").lower()
    if request.param == "registry":
        return f"oci://{request.getfixturevalue('shelf').host}/team/{name}"
    if request.param == "s3":
        for variable, value in request.getfixturevalue("buckets").items():
            monkeypatch.setenv(variable, value)
        return f"s3://{BUCKET}/{name}"
    if request.param == "sftp":
        return f"sftp://127.0.0.1:{request.getfixturevalue('known_host').port}{tmp_path}/place"
    return f"file://{tmp_path}/place"


@pytest.fixture
def place(target: str) -> Iterator[RemoteCache]:
    with open_remote(target, unsigned=True) as found:
        yield found


@pytest.fixture
def server() -> Iterator[Site]:
    with site() as found:
        yield found


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the keys `ours` and `foreign`, and the files of those who allow one of them."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ours", "foreign"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
        public = (folder / f"{name}.pub").read_text()
        (folder / f"{name}.signers").write_text(f'team,me@example.org namespaces="readonly-vm" {public}')
        (folder / f"{name}.git").write_text(f'me namespaces="git" {public}')
    return folder


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[Path], Path]:
    """A folder as it is, to be damaged."""
    return lambda folder: Path(shutil.copytree(folder, tmp_path / "copied"))
