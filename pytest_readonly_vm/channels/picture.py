"""Owns `Picture`: what a screen shows, in the format that every QEMU writes (PPM), and what can be made of it. Pure.

QEMU writes PNG by itself from 7.1 on, if it was built with libpng; this way all of them give the same.
"""

import re
import struct
import zlib
from dataclasses import dataclass
from typing import Self

_PPM = re.compile(rb"P6\s+(\d+)\s+(\d+)\s+255\s")
_CHANNELS = 3  # one byte each of red, green and blue


@dataclass(frozen=True, slots=True)
class Picture:
    """Rows of pixels, from the top; `pixels` has three bytes for each."""

    width: int
    height: int
    pixels: bytes

    @classmethod
    def from_ppm(cls, data: bytes) -> Self:
        """Read what ``screendump`` writes.

        :raises ValueError: it is something else, or incomplete.
        """
        header = _PPM.match(data)
        if header is None:
            raise ValueError("not a PPM of 24 bits")
        width, height = int(header[1]), int(header[2])
        pixels = data[header.end() :]
        if len(pixels) != width * height * _CHANNELS:
            raise ValueError(f"{len(pixels)} bytes of pixels for {width} x {height}")
        return cls(width, height, pixels)

    def png(self) -> bytes:
        """As PNG (https://www.w3.org/TR/png-3/): 8 bits a channel, no filter, no alpha."""
        row = self.width * _CHANNELS
        lines = b"".join(b"\0" + self.pixels[start : start + row] for start in range(0, len(self.pixels), row))
        header = struct.pack(">IIBBBBB", self.width, self.height, 8, 2, 0, 0, 0)
        chunks = (_chunk(b"IHDR", header), _chunk(b"IDAT", zlib.compress(lines)), _chunk(b"IEND", b""))
        return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)

    def for_reading(self, factor: int) -> bytes:
        """As a portable graymap that text recognition reads best: dark on light, `factor` times as wide and high.

        Of each pixel the channel that is farthest from the background counts, so blue on black is there as white is.
        """
        dark = sum(self.pixels) < 128 * len(self.pixels)
        channels = (self.pixels[channel::_CHANNELS] for channel in range(_CHANNELS))
        values = bytes(map(max if dark else min, *channels))
        if dark:
            values = values.translate(bytes(range(255, -1, -1)))
        rows = []
        for start in range(0, len(values), self.width):
            wide = bytearray(self.width * factor)
            for copy in range(factor):
                wide[copy::factor] = values[start : start + self.width]
            rows.append(bytes(wide) * factor)
        return b"P5\n%d %d\n255\n" % (self.width * factor, self.height * factor) + b"".join(rows)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
