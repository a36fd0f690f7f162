"""What another user has prepared where a folder of ours is to be is neither used nor followed nor changed."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_readonly_vm import HostError, VmConfig
from pytest_readonly_vm.host.folders import require_cache, user_cache
from pytest_readonly_vm.host.stopwatch import Stopwatch
from pytest_readonly_vm.host.workspace import Workspace
from pytest_readonly_vm.image.output_guard import OutputGuard
from pytest_readonly_vm.qemu import resources
from pytest_readonly_vm.start.cache import TemplateCache, default_folder

STRANGER = 12345


def _slots(path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resources, "_PLACE", path.parent)
        resources.Resources(OutputGuard(), pytest.fail, Stopwatch()).slots([VmConfig()], "guest", spare=False)


USES: dict[str, Callable[[Path], object]] = {
    f"pytest-readonly-vm-{os.getuid()}": lambda path: Workspace(path.parent),
    f"pytest-readonly-vm-{os.getuid()}.slots": _slots,
    "templates": lambda path: TemplateCache(path, limit=0),
    "named": require_cache,
}
"""Names of folders of ours, and what makes and uses them."""


def _link(path: Path, theirs: Path) -> None:
    path.symlink_to(theirs)


def _link_to_nothing(path: Path, theirs: Path) -> None:
    path.symlink_to(theirs / "nothing")


def _open_folder(path: Path, theirs: Path) -> None:
    path.mkdir()
    path.chmod(0o777)


def _others_folder(path: Path, theirs: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can give a folder to somebody else")
    path.mkdir(mode=0o700)
    os.chown(path, STRANGER, STRANGER)


def _file(path: Path, theirs: Path) -> None:
    path.touch()


def _pipe(path: Path, theirs: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path, theirs: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


PREPARED = (_link, _link_to_nothing, _open_folder, _others_folder, _file, _pipe, _socket)


@pytest.mark.parametrize("prepare", PREPARED)
@pytest.mark.parametrize("name", USES)
def test_what_is_in_the_place_of_a_folder_of_ours_is_refused(
    tmp_path: Path, name: str, prepare: Callable[[Path, Path], None]
) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir(mode=0o700)
    (theirs / "precious").write_text("x")
    place = tmp_path / "place"
    place.mkdir()
    place.chmod(0o1777)
    path = place / name
    prepare(path, theirs)
    before = path.lstat()
    with pytest.raises(HostError) as refusal:
        USES[name](path)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert (path.lstat().st_ino, path.lstat().st_mode, path.lstat().st_uid) == (
        before.st_ino, before.st_mode, before.st_uid,
    )  # fmt: skip
    assert [(found.name, found.read_text()) for found in theirs.iterdir()] == [("precious", "x")]
    assert list(place.iterdir()) == [path]


@pytest.mark.parametrize("prepare", [_open_folder, _others_folder])
def test_a_cache_of_a_strangers_is_not_believed(
    tmp_path: Path, prepare: Callable[[Path, Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache() == tmp_path / "pytest-readonly-vm"
    prepare(tmp_path / "pytest-readonly-vm", tmp_path)
    for ask in (user_cache, default_folder):
        with pytest.raises(HostError, match="is not yours alone to write"):
            ask()


def test_names_made_beforehand_in_a_folder_of_a_run_are_not_followed(tmp_path: Path) -> None:
    """As by what ran as this user once, and is not trusted any more."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "precious").write_text("x")
    parent = tmp_path / f"pytest-readonly-vm-{os.getuid()}"
    parent.mkdir(mode=0o700)
    (parent / "0123abcd").symlink_to(theirs)
    os.mkfifo(parent / "pipe")
    with Workspace(tmp_path) as run:
        run.machine_folder(1)
    assert (theirs / "precious").read_text() == "x"
    assert theirs.stat().st_nlink == 2
