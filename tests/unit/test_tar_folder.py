"""An archive that a guest has made up can write files, folders and links, where they are meant, and nothing else."""

import gzip
import io
import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_readonly_vm import VmConfig
from pytest_readonly_vm.guest.tar_folder import pack, unpack
from pytest_readonly_vm.image.output_guard import OutputGuard

Member = tuple[str, bytes, str]
"""Name, type, and what it links to or contains."""

FILE, LINK, HARD, FOLDER = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE


@pytest.fixture
def archive(tmp_path: Path) -> Callable[..., Path]:
    def make(*members: Member, **attributes: Any) -> Path:
        path = tmp_path / "archive"
        with tarfile.open(path, "w") as tar:
            for name, kind, text in members:
                member = tarfile.TarInfo(name)
                member.type, member.mode = kind, 0o6755
                if kind in (FILE, tarfile.CONTTYPE, b"Z"):
                    member.size = len(text)
                else:
                    member.linkname = text
                for attribute, value in attributes.items():
                    setattr(member, attribute, value)
                tar.addfile(member, io.BytesIO(text.encode()))
        return path

    return make


Archive = Callable[..., Path]


def kinds(folder: Path) -> dict[str, str]:
    """What is below a folder, without following links."""
    names = {stat.S_IFDIR: "folder", stat.S_IFREG: "file", stat.S_IFLNK: "link"}
    found = ((path, stat.S_IFMT(path.lstat().st_mode)) for path in sorted(folder.rglob("*")))
    return {str(path.relative_to(folder)): names.get(kind, "odd") for path, kind in found}


@pytest.mark.parametrize(
    "members",
    [
        [("/tmp/absolute", FILE, "x")],
        [("//tmp/absolute", FILE, "x")],
        [("../above", FILE, "x")],
        [("in/../../above", FILE, "x")],
        [("..", FOLDER, "")],
        [("link", LINK, ".."), ("link/above", FILE, "x")],
        [("link", LINK, ".."), ("./link//above", FOLDER, "")],
        [("link", LINK, ".."), ("link/inner/above", LINK, "x")],
        [("link", LINK, "../above"), ("link", FILE, "x")],
        [("link", LINK, "../outside"), ("link", HARD, "link")],
        [("hard", HARD, "../outside")],
        [("hard", HARD, "/etc/passwd")],
        [("link", LINK, "../outside"), ("hard", HARD, "link")],
        [("in", FOLDER, ""), ("hard", HARD, "in")],
        [("hard", HARD, "nothing")],
        [("hard", HARD, "theirs")],
        [("hard", HARD, "there/outside")],
        [("there/above", FILE, "x")],
        [("there", FILE, "x")],
        [("there/above", HARD, "a"), ("a", FILE, "x")],
    ],
    ids=lambda members: "-".join(member[0].strip("/.").replace("/", "_") for member in members),
)
def test_what_leads_out_is_refused_before_anything_is_written(
    tmp_path: Path, archive: Archive, members: list[Member]
) -> None:
    (tmp_path / "outside").write_text("secret")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "there").symlink_to("..")
    (folder / "theirs").write_text("of the user's")
    with pytest.raises(tarfile.TarError, match="would be unpacked elsewhere"):
        unpack(archive(("first", FILE, "x"), *members), folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive", "folder", "outside"]
    assert kinds(folder) == {"there": "link", "theirs": "file"}
    assert (tmp_path / "outside").stat().st_nlink == (folder / "theirs").stat().st_nlink == 1
    assert (folder / "theirs").read_text() == "of the user's"


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"Z"], ids=repr)
def test_nothing_but_files_folders_and_links_comes_out(tmp_path: Path, archive: Archive, kind: bytes) -> None:
    """Neither by its own type, nor as one more name of what was left out, nor of what is another name of that."""
    members = [("x", kind, ""), ("y", HARD, "x"), ("in/z", HARD, "y"), ("file", FILE, "text"), ("more", HARD, "file")]
    unpack(archive(*members), tmp_path / "out")
    assert kinds(tmp_path / "out") == {"file": "file", "more": "file"}
    assert (tmp_path / "out" / "more").samefile(tmp_path / "out" / "file")


def test_what_is_there_is_replaced_and_neither_written_nor_changed_through_another_of_its_names(
    tmp_path: Path, archive: Archive
) -> None:
    outside = tmp_path / "outside"
    outside.write_text("precious")
    outside.chmod(0o600)
    (tmp_path / "out").mkdir()
    for name in ("file", "name", "link"):
        (tmp_path / "out" / name).hardlink_to(outside)
    unpack(archive(("file", FILE, "new"), ("name", HARD, "file"), ("link", LINK, "file")), tmp_path / "out")
    assert outside.read_text() == "precious"
    assert (outside.stat().st_mode & 0o777, outside.stat().st_nlink) == (0o600, 1)
    assert (tmp_path / "out" / "file").read_text() == (tmp_path / "out" / "link").read_text() == "new"
    assert kinds(tmp_path / "out") == {"file": "file", "link": "link", "name": "file"}


@pytest.mark.parametrize("name", ["base.img", "in/base.img", "link"])
@pytest.mark.parametrize("kind", [FILE, LINK, HARD])
def test_a_base_image_in_the_folder_is_refused(tmp_path: Path, archive: Archive, name: str, kind: bytes) -> None:
    out = tmp_path / "out"
    (out / "in").mkdir(parents=True)
    base = out / name
    base.write_bytes(b"base")
    if name == "link":
        base.rename(tmp_path / "base.img")
        base.hardlink_to(tmp_path / "base.img")
    before = base.stat()
    output_guard = OutputGuard()
    output_guard.protect(VmConfig().replace(image=tmp_path / "base.img" if name == "link" else base))
    with pytest.raises(tarfile.TarError, match=f"'{name}' would be replaced, and it is the base image; nothing was"):
        unpack(archive(("first", FILE, "x"), (name, kind, "first")), out, output_guard)
    assert base.read_bytes() == b"base"
    assert (base.stat().st_ino, base.stat().st_ctime_ns) == (before.st_ino, before.st_ctime_ns)
    assert not (out / "first").exists()


def test_twice_into_the_same_folder(tmp_path: Path, archive: Archive) -> None:
    members = [("in", FOLDER, ""), ("in/file", FILE, "text"), ("in/masked", LINK, "/dev/null"), ("h", HARD, "in/file")]
    for _ in range(2):
        unpack(archive(*members), tmp_path / "out")
        assert kinds(tmp_path / "out") == {"h": "file", "in": "folder", "in/file": "file", "in/masked": "link"}


@pytest.mark.parametrize(
    "members",
    [
        [("a", FILE, "x"), ("a/b", FILE, "x")],
        [("a/b", FILE, "x"), ("a", FILE, "x")],
        [("a/b", FILE, "x"), ("a", LINK, "x")],
        [("theirs/b", FILE, "x")],
        [("folder", FILE, "x")],
        [(".", FILE, "x")],
    ],
)
def test_a_folder_does_not_become_a_file_nor_a_file_a_folder(
    tmp_path: Path, archive: Archive, members: list[Member]
) -> None:
    out = tmp_path / "out"
    (out / "folder").mkdir(parents=True)
    (out / "theirs").write_text("of the user's")
    with pytest.raises(tarfile.TarError, match="is a folder in one place and none in the other"):
        unpack(archive(*members), out)
    assert kinds(out) == {"folder": "folder", "theirs": "file"}


def test_what_is_no_file_here_is_not_replaced(tmp_path: Path, archive: Archive) -> None:
    (tmp_path / "out").mkdir()
    os.mkfifo(tmp_path / "out" / "pipe")
    with pytest.raises(tarfile.TarError, match="'pipe' would be replaced, and it is no file; nothing was written"):
        unpack(archive(("pipe", FILE, "x")), tmp_path / "out")
    assert (tmp_path / "out" / "pipe").is_fifo()


def test_links_may_lead_anywhere(tmp_path: Path, archive: Archive) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "folder").symlink_to("real")
    members = [("a", FILE, "x"), ("l", LINK, "/etc/passwd"), ("up", LINK, "../.."), ("n", tarfile.CHRTYPE, "")]
    unpack(archive(*members), tmp_path / "folder")
    assert kinds(tmp_path / "real") == {"a": "file", "l": "link", "up": "link"}
    assert (tmp_path / "real" / "a").stat().st_mode & 0o7777 == 0o755


def test_no_mode_locks_us_out_and_a_folder_of_the_users_keeps_its_own(tmp_path: Path, archive: Archive) -> None:
    members = [(".", FOLDER, ""), ("in", FOLDER, ""), ("in/file", FILE, "text")]
    made = archive(*members, mode=0o000)
    unpack(made, tmp_path / "new")
    assert [(tmp_path / "new" / name).stat().st_mode & 0o7777 for name in (".", "in", "in/file")] == [0o700, 0o700, 0]
    (tmp_path / "there").mkdir(mode=0o750)
    unpack(archive(*members, mode=0o777), tmp_path / "there")
    assert (tmp_path / "there").stat().st_mode & 0o7777 == 0o750
    assert (tmp_path / "there" / "in").stat().st_mode & 0o7777 == 0o777


@pytest.mark.parametrize("time", [0, -5, 2**70, 1_600_000_000.25])
def test_any_time_will_do(tmp_path: Path, archive: Archive, time: float) -> None:
    unpack(archive(("file", FILE, "x"), mtime=time), tmp_path / "out")
    assert (tmp_path / "out" / "file").read_text() == "x"
    if time == 1_600_000_000.25:
        assert (tmp_path / "out" / "file").stat().st_mtime == time


def test_what_is_packed_comes_out_the_same(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "inner" / "empty").mkdir(parents=True, mode=0o750)
    (tree / "inner" / os.fsdecode(b"odd \xff \n name")).write_bytes(b"\0" * 100_000 + b"x")
    (tree / "hard").hardlink_to(next((tree / "inner").glob("odd*")))
    (tree / "link").symlink_to("/nowhere")
    os.utime(tree / "inner", (1, 1_500_000_000))
    with (tmp_path / "archive").open("wb") as file:
        pack(tree, file)
    unpack(tmp_path / "archive", tmp_path / "out")
    assert kinds(tmp_path / "out") == kinds(tree)
    for path in tree.rglob("*"):
        there = tmp_path / "out" / path.relative_to(tree)
        assert there.lstat().st_mode == path.lstat().st_mode
        if path.is_file():
            assert there.read_bytes() == path.read_bytes()
            assert there.stat().st_nlink == 2
    assert (tmp_path / "out" / "inner").stat().st_mtime == 1_500_000_000
    assert (tmp_path / "out" / "hard").stat().st_blocks < 100


def test_an_archive_that_is_not_whole_is_refused_and_leaves_nothing(tmp_path: Path, archive: Archive) -> None:
    whole = archive(*((f"file{number}", FILE, "x" * 600) for number in range(3))).read_bytes()
    headers = bytearray(whole)
    headers[1536:2048] = b"\xff" * 512  # the second
    backwards = tarfile.TarInfo("backwards")
    backwards.size = -1024
    damaged = {
        "truncated": whole[:2048],
        "at a member's end": whole[:1536],
        "a header": bytes(headers),
        "a size below zero": whole[:1536] + backwards.tobuf(tarfile.GNU_FORMAT) + whole[1536:],
        "packed": gzip.compress(whole),
        "empty": b"",
        "text": b"text" * 1000,
    }
    for what, content in damaged.items():
        (tmp_path / "damaged").write_bytes(content)
        with pytest.raises(tarfile.TarError):
            unpack(tmp_path / "damaged", tmp_path / "out")
        assert not (tmp_path / "out").exists(), what


def test_a_chain_of_headers_without_an_end_is_refused(tmp_path: Path) -> None:
    long_name = tarfile.TarInfo("././@LongLink")
    long_name.type, long_name.size = tarfile.GNUTYPE_LONGNAME, 2
    header = long_name.tobuf(tarfile.GNU_FORMAT) + b"x\0".ljust(512, b"\0")
    (tmp_path / "archive").write_bytes(header * 5000 + bytes(1024))
    with pytest.raises(tarfile.TarError):
        unpack(tmp_path / "archive", tmp_path / "out")
    assert not (tmp_path / "out").exists()
