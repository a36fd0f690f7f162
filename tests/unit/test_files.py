"""An archive that a guest has made up cannot write anywhere but into the folder that was meant."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_readonly_vm.machine.tree import unpack

Member = tuple[str, bytes, str]
"""Name, type, and what it links to or contains."""


@pytest.fixture
def archive(tmp_path: Path) -> Callable[..., Path]:
    def make(*members: Member) -> Path:
        path = tmp_path / "archive"
        with tarfile.open(path, "w") as tar:
            for name, kind, text in members:
                member = tarfile.TarInfo(name)
                member.type, member.mode = kind, 0o6755
                if kind == tarfile.REGTYPE:
                    member.size = len(text)
                else:
                    member.linkname = text
                tar.addfile(member, io.BytesIO(text.encode()))
        return path

    return make


@pytest.mark.parametrize(
    "members",
    [
        [("/tmp/absolute", tarfile.REGTYPE, "x")],
        [("../above", tarfile.REGTYPE, "x")],
        [("in/../../above", tarfile.REGTYPE, "x")],
        [("link", tarfile.SYMTYPE, ".."), ("link/above", tarfile.REGTYPE, "x")],
        [("link", tarfile.SYMTYPE, "../above"), ("link", tarfile.REGTYPE, "x")],
        [("hard", tarfile.LNKTYPE, "../outside")],
        [("link", tarfile.SYMTYPE, "../outside"), ("hard", tarfile.LNKTYPE, "link")],
        [("there/above", tarfile.REGTYPE, "x")],
    ],
    ids=lambda members: members[-1][0] + "-" + str(len(members)),
)
def test_what_leads_out_is_refused(tmp_path: Path, archive: Callable[..., Path], members: list[Member]) -> None:
    (tmp_path / "outside").write_text("secret")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "there").symlink_to("..")
    with pytest.raises(tarfile.TarError, match="would be unpacked elsewhere"):
        unpack(archive(*members), folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive", "folder", "outside"]
    assert (tmp_path / "outside").stat().st_nlink == 1


def test_links_may_lead_anywhere_and_devices_are_left_out(tmp_path: Path, archive: Callable[..., Path]) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "folder").symlink_to("real")
    members = [("a", tarfile.REGTYPE, "x"), ("l", tarfile.SYMTYPE, "/etc/passwd"), ("n", tarfile.CHRTYPE, "")]
    unpack(archive(*members), tmp_path / "folder")
    assert sorted(path.name for path in (tmp_path / "real").iterdir()) == ["a", "l"]
    assert (tmp_path / "real" / "a").stat().st_mode & 0o7777 == 0o755
