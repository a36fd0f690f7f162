"""The archive that a capsule is: opened by stock tools, and by us only if it is whole and what it should be."""

import gzip
import io
import os
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_readonly_vm import WaitTimeout
from pytest_readonly_vm.errors import CapsuleRefused
from pytest_readonly_vm.evidence.capsule.file import CapsuleReader, new_capsule

MIB = 1 << 20
CONTENT = os.urandom(MIB + 5) + bytes(3 * MIB) + b"end"


def later() -> float:
    return time.monotonic() + 60


def memory(content: bytes) -> int:
    descriptor = os.memfd_create("content")
    os.write(descriptor, content)
    return descriptor


@pytest.fixture
def capsule(tmp_path: Path) -> Path:
    path = tmp_path / "one.vmcapsule"
    source = memory(CONTENT)
    with new_capsule(path, deadline=later()) as writer:
        writer.add("manifest.json", b"{}")
        writer.add_packed("state", source)
    os.close(source)
    return path


def unpacked(path: Path, *, size: int = len(CONTENT), name: str = "state") -> bytes:
    with CapsuleReader(path) as reader, open(os.memfd_create("target"), "r+b") as target:  # noqa: PTH123
        reader.unpack(name, target.fileno(), size=size)
        return target.read()


def test_what_goes_in_comes_out_and_zeros_are_holes(capsule: Path, tmp_path: Path) -> None:
    with CapsuleReader(capsule) as reader, (tmp_path / "state").open("w+b") as target:
        assert reader.content("manifest.json", limit=2) == b"{}"
        reader.unpack("state", target.fileno(), size=len(CONTENT))
        assert target.read() == CONTENT
        assert os.fstat(target.fileno()).st_blocks * 512 < 3 * MIB
    assert capsule.stat().st_size < 2 * MIB
    assert capsule.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.glob(".*")) == []


def test_the_programs_that_everybody_has_open_it(capsule: Path, tmp_path: Path) -> None:
    commands = f"tar -xf {capsule} && sha256sum --check --strict SHA256SUMS && gunzip state.gz"
    subprocess.run(["sh", "-ec", commands], cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    assert (tmp_path / "state").read_bytes() == CONTENT


def test_nothing_is_left_of_one_that_fails_and_the_old_one_stays(capsule: Path, tmp_path: Path) -> None:
    before = capsule.read_bytes()
    with pytest.raises(OSError, match="Bad file descriptor"), new_capsule(capsule, deadline=later()) as writer:
        writer.add_packed("state", -1)
    source = memory(bytes(16 * MIB))
    with pytest.raises(WaitTimeout), new_capsule(capsule, deadline=time.monotonic()) as writer:
        writer.add_packed("state", source)
    os.close(source)
    assert list(tmp_path.iterdir()) == [capsule]
    assert capsule.read_bytes() == before


def test_no_byte_can_be_lost_or_changed(capsule: Path) -> None:
    whole = capsule.read_bytes()
    end = len(whole.rstrip(b"\0"))
    for size in (0, 1, 511, 512, 513, 1024, 1500, end // 2, end - 1):
        capsule.write_bytes(whole[:size])
        with pytest.raises(CapsuleRefused, match=r"is not a capsule|is truncated|is damaged"):
            CapsuleReader(capsule)
    with CapsuleReader(rewritten(capsule, whole)) as reader:
        stretches = list(reader._members.values())
    for offset, size in stretches:
        for position in (offset - 512, offset - 400, offset - 380, offset, offset + size // 2, offset + size - 1):
            damaged = bytearray(whole)
            damaged[position] ^= 0x10
            with pytest.raises(CapsuleRefused):
                CapsuleReader(rewritten(capsule, damaged))


def rewritten(path: Path, content: bytes | bytearray) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.write_bytes(b"not at all\n" * 500),
        lambda path: path.write_bytes(bytes(4096)),
        lambda path: path.mkdir(),
        os.mkfifo,
    ],
    ids=["text", "zeros", "folder", "pipe"],
)
def test_other_files_are_refused(tmp_path: Path, make: Callable[[Path], object]) -> None:
    path = tmp_path / "other.vmcapsule"
    make(path)
    with pytest.raises(CapsuleRefused, match="is not a capsule"):
        CapsuleReader(path)


def member(name: str, content: bytes = b"", *, kind: bytes = tarfile.REGTYPE, size: int | None = None) -> bytes:
    header = tarfile.TarInfo(name)
    header.type, header.linkname = kind, "/etc/passwd" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
    header.size = len(content) if size is None else size
    return header.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512)


@pytest.mark.parametrize(
    "hostile",
    [
        member("../../etc/cron.d/x", b"x"),
        member("/etc/passwd", b"x"),
        member("folder/file", b"x"),
        member(".hidden", b"x"),
        member("state.gz", kind=tarfile.SYMTYPE),
        member("state.gz", kind=tarfile.LNKTYPE),
        member("state.gz", kind=tarfile.FIFOTYPE),
        member("state.gz", kind=tarfile.BLKTYPE),
        member("state.gz", kind=tarfile.DIRTYPE),
        member("state.gz", b"1 path=x\n", kind=tarfile.XHDTYPE),
        member("state.gz", b"x" * 512, kind=tarfile.GNUTYPE_LONGNAME),
        member("manifest.json", b"again"),
        member("state.gz", b"x", size=1 << 62),
        member("state.gz", b"x", size=-1024),
        b"".join(member(f"m{number}") for number in range(100)),
    ],
    ids=lambda hostile: f"{hostile[:20].rstrip(bytes(1)).decode()} {chr(hostile[156])}",
)
def test_archives_that_want_more_are_refused(tmp_path: Path, hostile: bytes) -> None:
    path = tmp_path / "hostile.vmcapsule"
    path.write_bytes(member("manifest.json", b"{}") + hostile + member("SHA256SUMS"))
    with pytest.raises(CapsuleRefused):
        CapsuleReader(path)


def made(path: Path, **members: bytes) -> Path:
    """A capsule whose digests are right, whatever its members are."""
    with new_capsule(path, deadline=later()) as writer:
        for name, content in members.items():
            writer.add(name.replace("_", "."), content)
    return path


class TestMembers:
    def test_one_that_is_much_larger_than_it_says_is_not_unpacked(self, tmp_path: Path) -> None:
        bomb = io.BytesIO()
        with gzip.GzipFile(fileobj=bomb, mode="wb") as packed:
            for _ in range(256):
                packed.write(bytes(MIB))
        path = made(tmp_path / "bomb", state_gz=bomb.getvalue())
        assert path.stat().st_size < MIB
        with pytest.raises(CapsuleRefused, match="state is longer than it should be"):
            unpacked(path, size=4 * MIB)

    @pytest.mark.parametrize(
        ("content", "complaint"),
        [
            (gzip.compress(b"x" * 100), "shorter than it should be"),
            (gzip.compress(b"x" * 10_000)[:-9], "cannot be unpacked"),
            (gzip.compress(b"x" * 10_000)[:-8] + bytes(8), "cannot be unpacked"),
            (b"no gzip", "cannot be unpacked"),
            (b"", "shorter than it should be"),
        ],
        ids=["short", "cut off", "without its checksum", "no gzip", "empty"],
    )
    def test_one_that_is_not_what_it_says_is_refused(self, tmp_path: Path, content: bytes, complaint: str) -> None:
        with pytest.raises(CapsuleRefused, match=complaint):
            unpacked(made(tmp_path / "other", state_gz=content), size=10_000)

    def test_one_that_is_missing_or_too_long_is_refused(self, tmp_path: Path) -> None:
        path = made(tmp_path / "other", console_log=b"x" * 100)
        with pytest.raises(CapsuleRefused, match="state is missing"):
            unpacked(path)
        with CapsuleReader(path) as reader:
            with pytest.raises(CapsuleRefused, match=r"console\.log is too long"):
                reader.content("console.log", limit=99)
            with pytest.raises(CapsuleRefused, match="is not a capsule"):
                reader.content("manifest.json", limit=99)
