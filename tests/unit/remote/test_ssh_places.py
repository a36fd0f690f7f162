"""A server is believed by SFTP if this user's ssh believes it, and is told nothing otherwise."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_readonly_vm import RemoteError
from pytest_readonly_vm.remote.targets import open_remote
from tests.hosts.ssh_hosts import SshHost
from tests.qemu.waiting import eventually
from tests.unit.remote.parcels import FILES, KEY, parcel
from tests.unit.remote.test_places import fetched


def forget(known: Path, host: SshHost) -> None:
    known.unlink()


def mistake(known: Path, host: SshHost) -> None:
    """For another, as when somebody is on the way."""
    known.write_text(f"[127.0.0.1]:{host.port} {host.key.with_suffix('.pub').read_text()}")


@pytest.mark.parametrize(
    ("change", "reason"), [(forget, "known_hosts does not have it"), (mistake, "known_hosts has other keys of it")]
)
def test_a_server_with_an_unknown_key_is_refused(
    known_host: SshHost, tmp_path: Path, change: Callable[[Path, SshHost], None], reason: str
) -> None:
    change(tmp_path / "home/.ssh/known_hosts", known_host)
    log = known_host.folder / "log"
    before = log.stat().st_size
    with pytest.raises(RemoteError, match=rf"its key is ssh-ed25519 SHA256:\S+, and .*{reason}; connect once by ssh"):
        open_remote(f"sftp://127.0.0.1:{known_host.port}{tmp_path}/place", unsigned=True)
    eventually(lambda: not known_host.sessions(), "the connection has ended")
    assert "Accepted" not in log.read_bytes()[before:].decode()


def test_no_connection_stays(known_host: SshHost, tmp_path: Path) -> None:
    with open_remote(f"ssh://127.0.0.1:{known_host.port}{tmp_path}/place", unsigned=True) as place:
        place.push(parcel(tmp_path, FILES))
        assert fetched(place, tmp_path / "here") == FILES
        assert place.keys() == [KEY]
        eventually(lambda: len(known_host.sessions()) == 1, "only the connection of this thread is there")
    eventually(lambda: not known_host.sessions(), "all connections have ended")
