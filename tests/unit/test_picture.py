"""A picture of the screen survives its change of format, pixel by pixel."""

import struct
import zlib

import pytest

from pytest_readonly_vm.channels.picture import Picture

RED, GREEN, BLUE, WHITE = b"\xff\0\0", b"\0\xff\0", b"\0\0\xff", b"\xff\xff\xff"
PICTURE = Picture(3, 2, RED + GREEN + BLUE + WHITE + RED + GREEN)
PPM = b"P6\n3 2\n255\n" + PICTURE.pixels


def test_is_read_from_what_qemu_writes() -> None:
    assert Picture.from_ppm(PPM) == PICTURE


def test_pixels_that_look_like_blanks_belong_to_the_picture() -> None:
    assert Picture.from_ppm(b"P6\n1 1\n255\n\n  ") == Picture(1, 1, b"\n  ")


@pytest.mark.parametrize("data", [b"", b"P5\n3 2\n255\n", PPM[:-1], PPM + b"\0"])
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


def test_is_made_legible() -> None:
    blue_on_black = Picture(3, 1, bytes(3) + BLUE + bytes(3))
    assert blue_on_black.for_reading(1) == b"P5\n3 1\n255\n\xff\0\xff"
    blue_on_white = Picture(3, 1, WHITE + BLUE + WHITE)
    assert blue_on_white.for_reading(1) == b"P5\n3 1\n255\n\xff\0\xff"


def test_is_enlarged_for_reading() -> None:
    picture = Picture(3, 1, WHITE + bytes(3) + WHITE)
    assert picture.for_reading(2) == b"P5\n6 2\n255\n" + b"\xff\xff\0\0\xff\xff" * 2
