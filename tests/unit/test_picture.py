"""A picture of the screen survives its change of format, pixel by pixel."""

import struct
import zlib

import pytest

from pytest_readonly_vm.channels.picture import Picture

RED, GREEN, BLUE, WHITE = b"\xff\0\0", b"\0\xff\0", b"\0\0\xff", b"\xff\xff\xff"
PICTURE = Picture(3, 2, RED + GREEN + BLUE + WHITE + RED + GREEN)


def test_is_read_from_what_qemu_writes() -> None:
    assert Picture.from_ppm(b"P6\n3 2\n255\n" + PICTURE.pixels) == PICTURE
    assert Picture.from_ppm(PICTURE.ppm()) == PICTURE


def test_pixels_that_look_like_blanks_belong_to_the_picture() -> None:
    blank = Picture(1, 1, b"\n  ")
    assert Picture.from_ppm(blank.ppm()) == blank


@pytest.mark.parametrize("data", [b"", b"P5\n3 2\n255\n", PICTURE.ppm()[:-1], PICTURE.ppm() + b"\0"])
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"not a PPM|bytes of pixels for 3 x 2"):
        Picture.from_ppm(data)


def test_is_a_png() -> None:
    png = PICTURE.png()
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, rest = [], png[8:]
    while rest:
        (size,) = struct.unpack(">I", rest[:4])
        kind_and_data, checksum, rest = rest[4 : 8 + size], rest[8 + size : 12 + size], rest[12 + size :]
        assert struct.unpack(">I", checksum) == (zlib.crc32(kind_and_data),)
        chunks.append((kind_and_data[:4], kind_and_data[4:]))
    assert [kind for kind, _ in chunks] == [b"IHDR", b"IDAT", b"IEND"]
    assert chunks[0][1] == struct.pack(">II", 3, 2) + b"\x08\x02\0\0\0"
    assert zlib.decompress(chunks[1][1]) == b"\0" + RED + GREEN + BLUE + b"\0" + WHITE + RED + GREEN


def test_is_enlarged() -> None:
    upper, lower = RED * 2 + GREEN * 2 + BLUE * 2, WHITE * 2 + RED * 2 + GREEN * 2
    assert PICTURE.enlarged(2) == Picture(6, 4, upper * 2 + lower * 2)
    assert PICTURE.enlarged(1) == PICTURE
