"""What is packed cannot fill a disk or the memory."""

import gzip
import lzma
import random
import struct
import tarfile
import zlib
from pathlib import Path

from tests.sparse_member import sparse_member
from tests.unit.packing import DISK, QCOW2, converted, refusal, taken, tar

BOX_OF_DISK = tar(("metadata.json", b'{"disks": [{"path": "disk.raw"}]}'))


def zeros(size: int) -> bytes:
    """A gzip of a disk with so many zeros, of one in a thousand."""
    pack = zlib.compressobj(wbits=31)
    parts = [pack.compress(DISK[:4096])]
    parts += [pack.compress(bytes(1 << 20)) for _ in range(size >> 20)]
    return b"".join([*parts, pack.flush()])


class TestBombs:
    def test_zeros_are_bounded_by_a_multiple_of_the_limit(self, tmp_path: Path) -> None:
        assert taken(tmp_path, zeros(3 << 20), limit=1 << 20).stat().st_blocks * 512 < 1 << 16
        (tmp_path / "target" / "disk").unlink()
        (tmp_path / "target").rmdir()
        said = refusal(tmp_path, zeros(5 << 20), limit=1 << 20)
        assert "image is too large: more than 4 times what the store of images may take" in said

    def test_the_holes_of_what_nobody_wants_cost_nothing(self, tmp_path: Path) -> None:
        data = BOX_OF_DISK[: 2 << 9] + sparse_member("README", b"read me\n", 1 << 60) + tar(("disk.raw", DISK))
        assert taken(tmp_path, data).read_bytes() == DISK

    def test_the_holes_of_a_disk_are_bounded(self, tmp_path: Path) -> None:
        said = refusal(tmp_path, sparse_member("disk.raw", DISK[:4096], 1 << 60))
        assert "disk.raw is too large: more than 4 times what the store of images may take" in said

    def test_what_nobody_wants_of_what_is_packed_is_bounded(self, tmp_path: Path) -> None:
        data = gzip.compress(BOX_OF_DISK[: 2 << 9] + tar(("README", bytes(17 << 20)), ("disk.raw", DISK)), 1)
        assert "it has more in it than 16 times what" in refusal(tmp_path, data, limit=1 << 20)

    def test_the_zeros_behind_a_packed_disk_are_bounded(self, tmp_path: Path) -> None:
        """Which may stand between two streams, so they are read."""
        packed = sparse_member("disk.gz", gzip.compress(DISK), 1 << 60)
        assert "it has more in it than 16 times what" in refusal(tmp_path, packed, limit=1 << 20)

    def test_data_is_bounded_by_the_limit(self, tmp_path: Path) -> None:
        data = gzip.compress(DISK[:512] + random.Random(5).randbytes(1 << 20) * 4)
        assert "more than the 2 MiB that the store of images may take; " in refusal(tmp_path, data, limit=2 << 20)

    def test_zeros_behind_a_disk_are_bounded_by_its_own_size(self, tmp_path: Path) -> None:
        pack = zlib.compressobj(wbits=31)
        data = pack.compress(QCOW2) + b"".join(pack.compress(bytes(1 << 20)) for _ in range(100)) + pack.flush()
        said = refusal(tmp_path, data, limit=1 << 30)
        assert "image is too large: more than what a disk of the size in its header takes" in said

    def test_what_a_disk_has_packed_itself_is_bounded_by_the_limit(self, tmp_path: Path) -> None:
        disk = converted("vmdk", "-o", "subformat=streamOptimized", data=DISK[:512] + b"a" * ((8 << 20) - 512))
        said = refusal(tmp_path, tar(("x.vmdk", disk)), limit=1 << 20)
        assert said == "it: x.vmdk takes more than the 1 MiB that the store of images may take"

    def test_what_a_member_says_of_its_size_is_looked_at_first(self, tmp_path: Path) -> None:
        info = tarfile.TarInfo("disk.img")
        info.size = 1 << 50
        data = info.tobuf(tarfile.GNU_FORMAT) + DISK
        assert "disk.img is too large" in refusal(tmp_path, data)

    def test_a_header_of_a_tar_cannot_fill_the_memory(self, tmp_path: Path) -> None:
        info = tarfile.TarInfo("././@LongLink")
        info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1 << 32
        pack = zlib.compressobj(wbits=31)
        data = pack.compress(info.tobuf(tarfile.GNU_FORMAT))
        data += b"".join(pack.compress(b"a" * (1 << 20)) for _ in range(40)) + pack.flush()
        assert "more than 16 MiB of headers for one file" in refusal(tmp_path, data)

    def test_members_without_end_are_refused(self, tmp_path: Path) -> None:
        data = tarfile.TarInfo("x").tobuf() * 10_001
        assert "is an archive of more than 10000 files" in refusal(tmp_path, gzip.compress(data))

    def test_the_directory_of_a_zip_cannot_fill_the_memory(self, tmp_path: Path) -> None:
        size = 17 << 20
        end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, size, 4, 0)
        assert "more than 16 MiB of headers" in refusal(tmp_path, b"PK\3\4" + bytes(size) + end)

    def test_a_dictionary_without_end_is_refused(self, tmp_path: Path) -> None:
        filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 30}]
        said = refusal(tmp_path, _with_dictionary(filters))
        assert "takes more memory to unpack than it may" in said

    def test_a_window_without_end_is_refused(self, tmp_path: Path) -> None:
        # A frame's header: the magic, a descriptor without size of content, the window: 2 ** (10 + 30 - 9).
        said = refusal(tmp_path, b"\x28\xb5\x2f\xfd\x00" + bytes([21 << 3]) + bytes(100))
        assert "takes more memory to unpack than it may" in said


def _with_dictionary(filters: list[dict[str, int]]) -> bytes:
    """An xz whose header asks for a large dictionary, without the memory that packing with it would take."""
    data = bytearray(lzma.compress(DISK, format=lzma.FORMAT_XZ, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 4096}]))
    # The block header is at 12: size, flags, id 0x21, size of properties 1, the dictionary as 2 or 3 << n; its CRC.
    assert data[14:16] == b"\x21\x01"
    bits = filters[0]["dict_size"].bit_length() - 1
    data[16] = (bits - 12) * 2
    data[20:24] = zlib.crc32(data[12:20]).to_bytes(4, "little")
    return bytes(data)
