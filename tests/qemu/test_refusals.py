"""An image that cannot be a base is refused in one sentence, before QEMU or anything else is started."""

import contextlib
import gzip
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_readonly_vm import ConfigurationError, ImageError, VmError
from tests.conftest import SMALL
from tests.qemu.image_tools import layer, run, writer_image
from tests.qemu.waiting import eventually

CONVERT = r"; convert it: qemu-img convert -O qcow2 OLD NEW$"


@pytest.fixture
def refused(
    boot: Callable[..., object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., pytest.ExceptionInfo[VmError]]:
    """Check that an image is refused with a sentence that matches, and that nothing was begun."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))

    def check(
        image: Path,
        sentence: str,
        *,
        error: type[VmError] = ImageError,
        privileged: bool = True,
        **settings: object,
    ) -> pytest.ExceptionInfo[VmError]:
        as_user: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if not privileged:
            as_user = without_privileges()
            settings = {"accel": "tcg"} | settings  # which every user may have
        with as_user, pytest.raises(error, match=sentence) as refusal:
            boot(image, **settings)
        assert "\n" not in str(refusal.value)
        assert str(image) in str(refusal.value)
        assert list(temporary.iterdir()) == []
        return refusal

    return check


Refused = Callable[..., pytest.ExceptionInfo[VmError]]


class TestDamage:
    def test_a_qcow2_that_is_marked_corrupt(self, tmp_path: Path, refused: Refused) -> None:
        image = writer_image(tmp_path / "disk.qcow2", "qcow2")
        overwrite(image, 72, (1 << 1).to_bytes(8, "big"))  # incompatible features, bit 1
        refused(image, "is marked corrupt; try qemu-img check -r all on a copy$")

    def test_a_qcow2_that_was_not_closed(self, tmp_path: Path, refused: Refused) -> None:
        image = writer_image(tmp_path / "disk.qcow2", "qcow2", "lazy_refcounts=on")
        run("qemu-io", "-c", "write 512k 64k", "-c", "abort", image, allowed=(-signal.SIGABRT,))
        refused(image, "was not closed properly; repair it with qemu-img check -r all$")

    def test_a_qcow2_whose_tables_are_nonsense(self, tmp_path: Path, refused: Refused) -> None:
        image = writer_image(tmp_path / "disk.qcow2", "qcow2")
        overwrite(image, 4 << 16, bytes(range(256)))
        refused(image, r"is damaged or truncated: qemu-img check finds \d+ errors$")

    def test_a_header_that_is_nonsense(self, tmp_path: Path, refused: Refused) -> None:
        image = writer_image(tmp_path / "disk.qcow2", "qcow2")
        overwrite(image, 20, b"\xff" * 4)
        refused(image, "cannot be opened: Could not open .*: Unsupported cluster size")

    @pytest.mark.parametrize(
        ("format", "kept", "sentence"),
        [
            ("qcow2", -(1 << 16), "is damaged or truncated: qemu-img check finds 1 error$"),
            ("qed", -(1 << 16), "is damaged or truncated: qemu-img check finds 1 error$"),
            ("vmdk", -(1 << 16), "is damaged or truncated: qemu-img check finds .*points after EOF"),
            ("vdi", -1, r"is truncated: it has 1049599 bytes and its contents reach 1049600$"),
            ("vhdx", 8 << 20, "cannot be opened: .*Image has probably been truncated"),
            ("vpc", -(1 << 16), "cannot be opened: .*The image has been truncated"),
        ],
    )
    def test_a_truncated_image(self, tmp_path: Path, refused: Refused, format: str, kept: int, sentence: str) -> None:
        image = writer_image(tmp_path / f"disk.{format}", format)
        os.truncate(image, kept if kept > 0 else image.stat().st_size + kept)
        refused(image, sentence)

    def test_a_raw_disk_that_ends_before_its_last_partition(self, tmp_path: Path, refused: Refused) -> None:
        image = writer_image(tmp_path / "disk.img")
        partition = bytes([0x80, 0, 0, 0, 0x83, 0, 0, 0]) + (64).to_bytes(4, "little") + (4096).to_bytes(4, "little")
        overwrite(image, 446, partition + bytes(48))
        refused(image, "is truncated: it has 1048576 bytes and its contents reach 2129920$")

    def test_a_damaged_layer_below(self, tmp_path: Path, refused: Refused) -> None:
        base = writer_image(tmp_path / "base.qcow2", "qcow2")
        top = layer(tmp_path / "top.qcow2", "qcow2", base, "qcow2")
        os.truncate(base, base.stat().st_size - (1 << 16))
        refused(top, f"its backing file {base} is damaged or truncated")


class TestKind:
    def test_a_folder(self, tmp_path: Path, refused: Refused) -> None:
        (tmp_path / "folder").mkdir()
        refused(tmp_path / "folder", r"^base image .*/folder \(from replace\(image=…\)\) is a folder$")

    def test_a_fifo(self, tmp_path: Path, refused: Refused) -> None:
        os.mkfifo(tmp_path / "fifo")
        refused(tmp_path / "fifo", "is neither a file nor a block device$")

    def test_a_fifo_as_a_backing_file(self, tmp_path: Path, refused: Refused) -> None:
        os.mkfifo(tmp_path / "fifo")
        for number, backing in enumerate((f"{tmp_path}/fifo", "fifo", f"file:{tmp_path}/fifo")):
            image = tmp_path / f"{number}.qcow2"
            run("qemu-img", "create", "-u", "-f", "qcow2", "-F", "raw", "-b", backing, image, "1M")
            refused(image, f"its backing file {tmp_path}/fifo is neither a file nor a block device$")

    def test_what_nothing_here_unpacks_whatever_its_format_is_said_to_be(
        self, tmp_path: Path, refused: Refused
    ) -> None:
        image = tmp_path / "disk.lz4"
        run("lz4", "-q", writer_image(tmp_path / "disk.raw"), image)
        for format in (None, "raw", "qcow2"):
            refused(image, rf"disk.lz4 \(from .*\) is packed by lz4; .*: lz4 -dk {image}$", format=format)

    def test_a_packed_backing_file(self, tmp_path: Path, refused: Refused) -> None:
        base = tmp_path / "base.gz"
        base.write_bytes(gzip.compress(writer_image(tmp_path / "disk.raw").read_bytes()))
        top = layer(tmp_path / "top.qcow2", "qcow2", base, "raw")
        refused(top, f"its backing file {base} is packed by gzip; .*: gzip -dk {base}$")

    def test_a_socket(self, tmp_path: Path, refused: Refused) -> None:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / "socket"))
            refused(tmp_path / "socket", "is neither a file nor a block device$")

    def test_a_format_that_is_not_supported(self, tmp_path: Path, refused: Refused) -> None:
        run("qemu-img", "create", "-f", "parallels", tmp_path / "disk.hdd", "1M")
        refused(tmp_path / "disk.hdd", f"has the format parallels, not one of qcow2, raw, .*{CONVERT}")

    def test_another_format_than_was_said(self, tmp_path: Path, refused: Refused) -> None:
        image = writer_image(tmp_path / "disk.qcow2", "qcow2")
        refused(image, "cannot be opened: .*invalid VMDK image descriptor", format="vmdk")

    def test_luks(self, tmp_path: Path, refused: Refused) -> None:
        (tmp_path / "disk.luks").write_bytes(luks_header().ljust(4 << 20, b"\0"))
        refused(tmp_path / "disk.luks", f"has the format luks, not one of .*{CONVERT}")

    def test_an_encrypted_qcow2(self, tmp_path: Path, refused: Refused) -> None:
        key = ("--object", "secret,id=key,data=password", "-o", "encrypt.format=aes,encrypt.key-secret=key")
        run("qemu-img", "create", *key, "-f", "qcow2", tmp_path / "disk.qcow2", "1M")
        refused(tmp_path / "disk.qcow2", f"is encrypted, and there is no setting for a key{CONVERT}")

    def test_a_qcow2_with_its_data_in_another_file(self, tmp_path: Path, refused: Refused) -> None:
        image = writer_image(tmp_path / "disk.qcow2", "qcow2", f"data_file={tmp_path / 'data'}")
        refused(image, f"keeps its data in a second file{CONVERT}")

    @pytest.mark.parametrize("subformat", ["monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"])
    def test_a_vmdk_in_several_files(self, tmp_path: Path, refused: Refused, subformat: str) -> None:
        image = writer_image(tmp_path / "disk.vmdk", "vmdk", f"subformat={subformat}")
        refused(image, f"is a VMDK in several files{CONVERT}")

    def test_a_backing_file_on_another_computer(self, tmp_path: Path, refused: Refused) -> None:
        image = tmp_path / "top.qcow2"
        run("qemu-img", "create", "-u", "-f", "qcow2", "-F", "raw", "-b", "nbd:unix:/nowhere", image, "1M")
        refused(image, "cannot be opened: .*Failed to connect to '/nowhere'")

    def test_a_chain_that_is_a_ring(self, tmp_path: Path, refused: Refused) -> None:
        image = tmp_path / "ring.qcow2"
        run("qemu-img", "create", "-u", "-f", "qcow2", "-F", "qcow2", "-b", "ring.qcow2", image, "1M")
        refused(image, "cannot be opened: .*creates an infinite loop")


class TestPresence:
    def test_no_file(self, tmp_path: Path, refused: Refused) -> None:
        refused(tmp_path / "nothing.img", "image: .*nothing.img: No such file or directory$", error=ConfigurationError)

    def test_a_symbolic_link_to_nothing(self, tmp_path: Path, refused: Refused) -> None:
        (tmp_path / "link").symlink_to("nothing")
        refused(tmp_path / "link", "image: .*link: No such file or directory$", error=ConfigurationError)

    def test_no_backing_file(self, tmp_path: Path, refused: Refused) -> None:
        base = writer_image(tmp_path / "base.img")
        top = layer(tmp_path / "top.qcow2", "qcow2", base, "raw")
        base.unlink()
        refused(top, f"its backing file {base} cannot be opened: No such file or directory$")

    def test_a_file_that_may_not_be_read(self, open_folder: Path, refused: Refused) -> None:
        image = writer_image(open_folder / "disk.img")
        image.chmod(0)
        refused(image, "cannot be opened: .*Permission denied$", privileged=False)

    def test_a_folder_that_may_not_be_entered(self, open_folder: Path, refused: Refused) -> None:
        closed = open_folder / "closed"
        closed.mkdir()
        image = writer_image(closed / "disk.img")
        closed.chmod(0)
        try:
            refused(image, "Permission denied$", error=VmError, privileged=False)
        finally:
            closed.chmod(0o700)

    def test_a_name_that_is_too_long_for_a_file(self, tmp_path: Path, refused: Refused) -> None:
        refused(tmp_path / ("x" * 300), "File name too long$", error=VmError)

    def test_a_name_that_is_too_long_for_a_file_as_an_option(self, pytester: pytest.Pytester) -> None:
        result = pytester.runpytest_subprocess(f"--vm-image={'x' * 300}", *SMALL)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines(["ERROR: --vm-image: *File name too long*"])
        result.stdout.no_fnmatch_line("*INTERNALERROR*")


class TestWriters:
    @pytest.fixture
    def image(self, tmp_path: Path) -> Path:
        return writer_image(tmp_path / "disk.qcow2", "qcow2")

    def test_a_process_that_has_it_open(self, image: Path, refused: Refused) -> None:
        with image.open("r+b"):
            refused(image, f"{image} is open for writing in another process; end that process or copy the image$")

    def test_a_process_that_has_a_layer_below_open(self, tmp_path: Path, image: Path, refused: Refused) -> None:
        top = layer(tmp_path / "top.qcow2", "qcow2", image, "qcow2")
        with image.open("ab"):
            refused(top, f": {image} is open for writing in another process; end that process or copy the image$")

    @pytest.mark.parametrize("locking", ["on", "off"])
    def test_another_qemu(self, image: Path, refused: Refused, locking: str) -> None:
        disk = f"driver=file,filename={image},locking={locking},node-name=file"
        with daemon(
            "qemu-system-x86_64", "-M", "none", "-nodefaults", "-display", "none", "-qmp", "stdio", "-blockdev", disk
        ) as qemu:
            assert qemu.stdout is not None
            assert "QMP" in json.loads(qemu.stdout.readline())
            refused(image, "is open for writing in another process; end that (machine|process) or copy the image$")

    def test_qemu_nbd(self, tmp_path: Path, image: Path, refused: Refused) -> None:
        place = tmp_path / "socket"
        with daemon("qemu-nbd", "-t", "-k", str(place), "-f", "qcow2", str(image)):
            eventually(place.is_socket, "qemu-nbd")
            refused(image, "is open for writing in another process; end that (machine|process) or copy the image$")

    def test_readers_are_welcome(self, tmp_path: Path, image: Path, boot: Callable[..., object]) -> None:
        place = tmp_path / "socket"
        with daemon("qemu-nbd", "-r", "-t", "-k", str(place), "-f", "qcow2", str(image)), image.open("rb"):
            eventually(place.is_socket, "qemu-nbd")
            boot(image)


def luks_header() -> bytes:
    """A header of LUKS version 1 without a key; qemu-img takes seconds to make one, and fails on a busy computer."""
    text = struct.pack(">6sH32s32s32s", b"LUKS\xba\xbe", 1, b"aes", b"xts-plain64", b"sha256")
    keys = struct.pack(">II20s32sI40s", 4096, 64, b"", b"", 1000, b"00000000-0000-0000-0000-000000000000")
    slots = [struct.pack(">II32sII", 0x0000DEAD, 0, b"", 8 + 504 * number, 4000) for number in range(8)]
    return text + keys + b"".join(slots)


def overwrite(path: Path, position: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        file.write(data)


@contextlib.contextmanager
def daemon(*argv: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program that runs meanwhile."""
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter, as pytest's own are not."""
    folder = Path(tempfile.mkdtemp(dir="/var/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@contextlib.contextmanager
def without_privileges() -> Iterator[None]:
    """What follows is done by an ordinary user, also when root runs the tests."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
