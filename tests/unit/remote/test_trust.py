"""What nobody has signed whom the user trusts is refused, unless it lies where only the user may write."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pytest_readonly_vm import ConfigurationError, NotTrusted
from pytest_readonly_vm.remote.targets import open_remote
from tests.unit.remote.parcels import ABOVE, CHANGED, FILES, KEY, parcel


@pytest.fixture(params=["folder", "registry"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place that others can write."""
    if request.param == "registry":
        return f"oci://{request.getfixturevalue('shelf').host}/trust/{tmp_path.name.replace('_', '-')}"
    folder = tmp_path / "place"
    folder.mkdir()
    folder.chmod(0o777)
    return str(folder)


def test_a_signature_of_somebody_who_is_trusted_counts(shared: str, keys: Path, tmp_path: Path) -> None:
    with open_remote(shared, signers=keys / "ours.signers") as place:
        place.push(parcel(tmp_path, FILES), sign_with=keys / "ours")
        place.push(parcel(tmp_path, CHANGED, key=ABOVE, below=(KEY,)), sign_with=keys / "ours")
        for key in (KEY, ABOVE):
            assert place.find(key) is not None
        assert place.push(parcel(tmp_path / "again", FILES), sign_with=keys / "ours").sent == 0


@pytest.mark.parametrize(
    ("signer", "signers", "reason"),
    [
        (None, None, "it is not signed"),
        (None, "ours.signers", "it is not signed"),
        ("ours", None, "it is signed, and nobody has said whose signature counts"),
        ("foreign", "ours.signers", "it is signed by nobody in"),
        ("ours", "ours.git", "not"),
    ],
)
def test_all_others_are_refused(
    shared: str, keys: Path, tmp_path: Path, signer: str | None, signers: str | None, reason: str
) -> None:
    with open_remote(shared, signers=keys / signers if signers else None) as place:
        place.push(parcel(tmp_path, FILES), sign_with=keys / signer if signer else None)
        with pytest.raises(NotTrusted, match=re.escape(reason)) as refused:
            place.find(KEY)
    assert "--vm-cache-signers=FILE" in str(refused.value)
    with open_remote(shared, unsigned=True) as place:
        assert place.find(KEY) is not None


def test_a_signature_is_of_one_key_and_one_content(keys: Path, tmp_path: Path) -> None:
    folder = tmp_path / "place"
    with open_remote(folder) as place:
        place.push(parcel(tmp_path, FILES), sign_with=keys / "ours")
        place.push(parcel(tmp_path, CHANGED, key=ABOVE))
    folder.chmod(0o777)
    signed, other = (json.loads((folder / f"keys/{key}.json").read_text()) for key in (KEY, ABOVE))
    other["annotations"]["io.pytest-readonly-vm.signature"] = signed["annotations"]["io.pytest-readonly-vm.signature"]
    (folder / f"keys/{ABOVE}.json").write_text(json.dumps(other))
    with open_remote(folder, signers=keys / "ours.signers") as place:
        assert place.find(KEY) is not None
        with pytest.raises(NotTrusted, match="its signature is not good for it"):
            place.find(ABOVE)


def test_one_who_signs_does_not_build_upon_what_strangers_have_put_there(keys: Path, tmp_path: Path) -> None:
    folder = tmp_path / "place"
    folder.mkdir()
    folder.chmod(0o777)
    with open_remote(folder, signers=keys / "ours.signers") as place:
        place.push(parcel(tmp_path / "stranger", CHANGED))
        assert place.push(parcel(tmp_path, FILES), sign_with=keys / "ours").sent > 0
        manifest = place.find(KEY)
        assert manifest is not None
        (tmp_path / "here").mkdir()
        place.fetch(manifest, tmp_path / "here")
    assert (tmp_path / "here/ram").read_bytes() == FILES["ram"]


@pytest.mark.parametrize("which", ["place", "place/keys", "place/blobs/sha256", "."])
def test_a_folder_that_others_may_write_is_not_ones_own(tmp_path: Path, which: str) -> None:
    above = tmp_path / "above"
    with open_remote(above / "place") as place:
        place.push(parcel(tmp_path, FILES))
        assert place.find(KEY) is not None
    (above / which).chmod(0o777)
    with open_remote(above / "place") as place, pytest.raises(NotTrusted, match=r"others than you may write to .*go-w"):
        place.find(KEY)
    (above / which).chmod(0o1777)  # as /tmp is
    with open_remote(above / "place") as place:
        if which == ".":
            assert place.find(KEY) is not None
        else:
            with pytest.raises(NotTrusted):
                place.find(KEY)


def test_a_key_that_cannot_sign_is_named(keys: Path, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    shutil.copy(keys / "ours", locked)
    locked.chmod(0o600)
    subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", "secret", "-f", locked], check=True)
    with open_remote(tmp_path / "place") as place:
        for key, reason in ((locked, "ssh-agent"), (tmp_path / "none", "is no file")):
            with pytest.raises(ConfigurationError, match=reason):
                place.push(parcel(tmp_path, FILES), sign_with=key)
        assert place.find(KEY) is None


def test_a_key_of_the_agent_signs(keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", tmp_path / "agent"], stdout=subprocess.PIPE, text=True)
    with agent:
        try:
            assert agent.stdout is not None
            agent.stdout.readline()  # it listens
            monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
            subprocess.run(["ssh-add", "-q", keys / "ours"], check=True)
            public = tmp_path / "only.pub"
            shutil.copy(keys / "ours.pub", public)
            folder = tmp_path / "place"
            with open_remote(folder) as place:
                place.push(parcel(tmp_path, FILES), sign_with=public)
            folder.chmod(0o777)
            with open_remote(folder, signers=keys / "ours.signers") as place:
                assert place.find(KEY) is not None
        finally:
            agent.kill()


def test_whoever_replaces_what_is_signed_is_not_believed(shared: str, keys: Path, tmp_path: Path) -> None:
    with open_remote(shared, signers=keys / "ours.signers") as place:
        place.push(parcel(tmp_path, FILES), sign_with=keys / "ours")
    with open_remote(shared) as stranger:
        stranger.push(parcel(tmp_path / "stranger", CHANGED))
    with open_remote(shared, signers=keys / "ours.signers") as place, pytest.raises(NotTrusted, match="not signed"):
        place.find(KEY)
