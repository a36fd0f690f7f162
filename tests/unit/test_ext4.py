"""What is read of an ext4 file system from outside is what its maker put there, and nonsense is told as such."""

import os
import random
import stat
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_readonly_vm.image.ext4 import ROOT, Ext4, making_sense
from pytest_readonly_vm.image.ext4_inode import Inode
from pytest_readonly_vm.image.ext4_tree import FileTree
from pytest_readonly_vm.image.qcow2 import DiskBytes, Unreadable, layer
from tests.guests import tools

KINDS = {
    "as today": ("-t", "ext4", "-O", "64bit,metadata_csum"),
    "inline data": ("-t", "ext4", "-O", "inline_data", "-I", "256"),
    "small blocks": ("-t", "ext4", "-b", "1024"),
    "small inodes": ("-t", "ext4", "-I", "128", "-O", "^64bit,^metadata_csum"),
    "descriptors beside the groups": ("-t", "ext4", "-O", "meta_bg,^resize_inode,^flex_bg", "-b", "1024", "-g", "256"),
    "ext3": ("-t", "ext3"),
    "ext2": ("-t", "ext2", "-b", "1024"),
}
SIZE = 24 << 20
PATTERN = bytes(range(256)) * 512


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is put into each."""
    top = tmp_path_factory.mktemp("content")
    (top / "empty").touch()
    (top / "small").write_bytes(b"one\n")
    (top / "medium").write_bytes(PATTERN[:130])
    (top / "large").write_bytes(PATTERN * 12)
    with (top / "sparse").open("wb") as file:
        for place in range(0, 3 << 20, 128 << 10):
            file.seek(place)
            file.write(PATTERN[:5000])
        file.seek(3 << 20)
        file.write(PATTERN[:77])  # mke2fs drops a hole at the end
    (top / "short").symlink_to("small")
    (top / "long").symlink_to("x" * 200)
    os.mkfifo(top / "pipe")
    (top / "sub" / "of").mkdir(parents=True)
    (top / "sub" / "of" / "odd\n\udcff name").write_bytes(b"odd")
    os.link(top / "small", top / "sub" / "same")
    (top / "big").mkdir()
    for number in range(1200):
        (top / "big" / f"a-name-that-takes-some-room-{number}").touch()
    (top / "small").chmod(0o4751)
    return top


def program(name: str) -> str:
    tools.require(name)
    return name


@pytest.fixture(scope="module")
def made(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    known: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in known:
            image = known[kind] = tmp_path_factory.mktemp("images") / "disk.img"
            with image.open("wb") as file:
                file.truncate(SIZE)
            tools.run([program("mke2fs"), "-q", "-F", *KINDS[kind], "-d", str(folder), str(image)])
            tools.run([program("debugfs"), "-w", "-R", "ea_set small user.colour green", str(image)])
        return known[kind]

    return make


@pytest.fixture
def opened() -> Iterator[Callable[[Path], Ext4]]:
    descriptors = []

    def read(image: Path) -> Ext4:
        descriptors.append(os.open(image, os.O_RDONLY))
        with making_sense():
            return Ext4(DiskBytes([layer(descriptors[-1], "raw")], budget=1 << 30), 0)

    yield read
    for descriptor in descriptors:
        os.close(descriptor)


def by_path(tree: FileTree) -> dict[str, Inode]:
    found = {}
    waiting = [("", ROOT)]
    while waiting:
        path, directory = waiting.pop()
        for name, number in tree.names[directory].items():
            where = f"{path}/{os.fsdecode(name)}"
            found[where] = tree.inodes[number]
            if number in tree.names:
                waiting.append((where, number))
    del found["/lost+found"]
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_everything_is_there(
    kind: str, folder: Path, made: Callable[[str], Path], opened: Callable[[Path], Ext4]
) -> None:
    system = opened(made(kind))
    found = by_path(FileTree(system))
    wanted = {f"/{path.relative_to(folder)}": path for path in folder.rglob("*")}
    assert found.keys() == wanted.keys()
    for name, path in wanted.items():
        inode, there = found[name], path.lstat()
        assert inode.mode == there.st_mode, name
        assert (inode.uid, inode.gid, inode.links) == (there.st_uid, there.st_gid, there.st_nlink), name
        if stat.S_ISREG(there.st_mode):
            content = bytearray(inode.size)
            for at, part in system.chunks(inode, system.extents(inode)[0]):
                content[at : at + len(part)] = part
            assert content == path.read_bytes(), name
        elif stat.S_ISLNK(there.st_mode):
            assert system.target(inode) == os.fsencode(path.readlink()), name
    assert system.attributes(found["/small"]) == {b"user.colour": b"green"}
    assert system.attributes(found["/large"]) == {}


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_is_written_there_it_is_told_or_said_to_be_damaged(
    kind: str, made: Callable[[str], Path], opened: Callable[[Path], Ext4], tmp_path: Path
) -> None:
    sound = made(kind).read_bytes()
    before = FileTree(opened(made(kind)))
    places = [at for at in range(0, SIZE, 512) if any(sound[at : at + 512])][:2000]
    dice = random.Random(kind)
    told = set()
    for number in range(25):
        content = bytearray(sound)
        for _ in range(dice.randrange(1, 200)):
            content[dice.choice(places) + dice.randrange(512)] = dice.choice((0, 1, 0xFF, dice.randrange(256)))
        image = tmp_path / f"{number}.img"
        image.write_bytes(content)
        try:
            system = opened(image)
            with making_sense():
                FileTree(system)
            told.add("read")
            with making_sense():
                for one in before.differences(system, set(range(SIZE >> 16))):
                    for inode in (one.before, one.after):
                        if inode is not None and stat.S_ISREG(inode.mode):
                            list(system.chunks(inode, system.extents(inode)[0]))
        except Unreadable:
            told.add("damaged")
        image.unlink()
    assert "damaged" in told


def test_what_leads_back_to_itself_is_damaged(
    made: Callable[[str], Path], opened: Callable[[Path], Ext4], tmp_path: Path
) -> None:
    sound = made("as today").read_bytes()
    system = opened(made("as today"))
    tree = FileTree(system)
    files = by_path(tree)
    extents, [node] = system.extents(files["/sparse"])
    assert len(extents) > 20
    image = tmp_path / "disk.img"
    at = node * system.block_size
    to_itself = struct.pack("<4H4x4xIH2x", 0xF30A, 1, 340, 1, node, 0)
    image.write_bytes(sound[:at] + to_itself + sound[at + len(to_itself) :])
    damaged = opened(image)
    with pytest.raises(Unreadable, match="an extent tree cannot be as it is: the file system is damaged"):
        damaged.extents(files["/sparse"])
    [extent] = system.extents(files["/sub"])[0]
    at = extent.place * system.block_size
    entries = sound[at : at + system.block_size]
    of = struct.pack("<I", files["/sub/of"].number)
    assert entries.count(of) == 1
    image.write_bytes(sound[:at] + entries.replace(of, struct.pack("<I", ROOT)) + sound[at + system.block_size :])
    looped = opened(image)
    for look in (lambda: FileTree(looped), lambda: list(tree.differences(looped, {at >> 16}))):
        with pytest.raises(Unreadable, match="a directory is in two places: the file system is damaged"):
            look()


def content_of(system: Ext4, name: str) -> bytes:
    inode = by_path(FileTree(system))[name]
    return b"".join(part for _, part in system.chunks(inode, system.extents(inode)[0]))


@pytest.mark.parametrize("kind", ["as today", "ext3", "small inodes"])
def test_what_is_in_the_journal_counts_as_the_kernel_would_replay_it(
    kind: str, made: Callable[[str], Path], opened: Callable[[Path], Ext4], tmp_path: Path
) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(made(kind).read_bytes())
    system = opened(image)
    [extent, *_] = system.extents(by_path(FileTree(system))["/large"])[0]
    size, first = system.block_size, extent.place
    for number, text in enumerate((b"\xc0\x3b\x39\x98 as a journal's own", b"second", b"revoked", b"third"), start=1):
        (tmp_path / str(number)).write_bytes(text.ljust(size, b"\0"))
    (tmp_path / "commands").write_text(
        f"jo\njw -b {first} {tmp_path}/1\njc\n"
        f"jo\njw -b {first + 1} {tmp_path}/2\njw -b {first + 2} {tmp_path}/3\njc\n"
        f"jo\njw -r {first + 2}\njw -b {first + 3} {tmp_path}/4\njc\n"
    )
    tools.run(["debugfs", "-w", "-f", str(tmp_path / "commands"), str(image)])
    pending = opened(image)
    found = content_of(pending, "/large")
    assert pending.replayed
    checked = subprocess.run([program("e2fsck"), "-fy", str(image)], capture_output=True, check=False)
    assert checked.returncode in (0, 1), checked.stdout
    replayed = opened(image)
    assert not replayed.replayed
    assert found == content_of(replayed, "/large")
    # The first begins as a block of the journal does, for which it has other bytes there.
    assert found[: size + 6] == (tmp_path / "1").read_bytes() + b"second"
    assert found[2 * size :][:256] == PATTERN[:256]


def test_what_is_no_file_system_is_said(tmp_path: Path, opened: Callable[[Path], Ext4]) -> None:
    (tmp_path / "disk.img").write_bytes(bytes(1 << 20))
    with pytest.raises(Unreadable, match="no ext4 file system"):
        opened(tmp_path / "disk.img")
