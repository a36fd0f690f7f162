"""Owns what is remembered of the frames of a network, and how that is written: as pcapng, which tshark and scapy read.

https://www.ietf.org/archive/id/draft-ietf-opsawg-pcapng-03.html. Each port is an interface with its machine's name, and
what faults did to a frame is a comment beside it.
"""

import contextlib
import struct
import time
from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from typing import BinaryIO

from pytest_readonly_vm.network.switch.packet import HEAD

_SECTION, _INTERFACE, _ENHANCED = 0x0A0D0D0A, 1, 6
_BYTE_ORDER = 0x1A2B3C4D
_ETHERNET = 1
_COMMENT, _NAME, _RESOLUTION, _NANOSECONDS = 1, 2, 9, b"\x09"
_AT_ONCE = 1 << 20
_OVERHEAD = 128
"""Bytes that a remembered frame takes beside its own."""

Taken = tuple[int, int, bytes]
"""When a packet came, in nanoseconds since the epoch, from which port, and it."""


class Capture:
    """The last frames, up to so many bytes; and the files that take all that come."""

    def __init__(self, limit: int, name_of: Callable[[int], str]) -> None:
        self.files: dict[int, PcapFile] = {}
        self._limit = limit
        self._name_of = name_of
        self._frames: deque[Taken] = deque()
        self._size = 0
        self._new = 0
        self._remarks: dict[int, list[str]] = {}  # by the id of a packet that is remembered

    def take(self, source: int, packets: list[bytes]) -> None:
        """Remember packets that have just come from a port."""
        if self._limit or self.files:
            now = time.time_ns()
            if self._remarks:  # of packets that are forgotten, whose ids others have now
                for packet in packets:
                    self._remarks.pop(id(packet), None)
            self._frames += [(now, source, packet) for packet in packets]
            self._size += sum(map(len, packets)) + _OVERHEAD * len(packets)
            self._new += len(packets)

    def remark(self, packet: bytes, text: str) -> None:
        """Say something of a packet that was taken, to be read beside it."""
        if self._limit or self.files:
            self._remarks.setdefault(id(packet), []).append(text)

    @property
    def unsettled(self) -> int:
        """Frames that have come since `settle`."""
        return self._new

    def settle(self) -> None:
        """Write what is new, and forget what there is no room for; when nothing more is to be said of it at once."""
        for file in self.files.values():
            file.write(self._described(islice(self._frames, len(self._frames) - self._new, None)))
        self._new = 0
        while self._size > self._limit and self._frames:
            _, _, packet = self._frames.popleft()
            self._size -= len(packet) + _OVERHEAD
            if self._remarks:
                self._remarks.pop(id(packet), None)

    def begin(self, number: int, target: BinaryIO) -> None:
        """Write all that comes from now on to a file, until `end`."""
        self.settle()
        self.files[number] = PcapFile(target, self._name_of)

    def end(self, number: int) -> int:
        """How many frames have come since `begin`.

        :raises OSError: they could not be written.
        """
        self.settle()
        file = self.files.pop(number)
        return file.close()

    def dump(self, target: BinaryIO) -> int:
        """Write all that is remembered; how many frames that is.

        :raises OSError: they could not be written.
        """
        file = PcapFile(target, self._name_of)
        file.write(self._described(self._frames))
        return file.close()

    def remembered(self) -> Iterable[Taken]:
        """All that is, the oldest first."""
        return self._frames

    def _described(self, frames: Iterable[Taken]) -> Iterable[tuple[Taken, list[str]]]:
        return ((taken, self._remarks.get(id(taken[2]), [])) for taken in frames)


class PcapFile:
    """A file of frames that is being written; that the disk is full, hears who closes it."""

    def __init__(self, target: BinaryIO, name_of: Callable[[int], str]) -> None:
        self._frames = 0
        self._target = target
        self._error: OSError | None = None
        self._name_of = name_of
        self._interfaces: dict[tuple[int, str], int] = {}
        self._put(_block(_SECTION, struct.pack("<IHHq", _BYTE_ORDER, 1, 0, -1)))

    def write(self, frames: Iterable[tuple[Taken, list[str]]]) -> None:
        if self._error is not None:
            return
        blocks = bytearray()
        for (when, source, packet), remarks in frames:
            interface = self._interface(source, blocks)
            frame = memoryview(packet)[HEAD:]
            head = struct.pack("<IIIII", interface, when >> 32, when & 0xFFFFFFFF, len(frame), len(frame))
            comments = b"".join(_option(_COMMENT, remark.encode()) for remark in remarks)
            blocks += _block(_ENHANCED, head + _padded(frame) + _ended(comments))
            self._frames += 1
            if len(blocks) > _AT_ONCE:
                self._put(blocks)
                blocks.clear()
        self._put(blocks)

    def _put(self, blocks: bytes | bytearray) -> None:
        if self._error is None:
            try:
                self._target.write(blocks)
                self._target.flush()
            except OSError as error:
                self._error = error

    def _interface(self, source: int, blocks: bytearray) -> int:
        name = self._name_of(source)
        if (source, name) not in self._interfaces:
            self._interfaces[source, name] = len(self._interfaces)
            options = _ended(_option(_NAME, name.encode()) + _option(_RESOLUTION, _NANOSECONDS))
            blocks += _block(_INTERFACE, struct.pack("<HHI", _ETHERNET, 0, 0) + options)
        return self._interfaces[source, name]

    def close(self) -> int:
        """How many frames are in it.

        :raises OSError: there was no room for all.
        """
        with contextlib.suppress(OSError):  # which tries again to write what was left
            self._target.close()
        if self._error is not None:
            raise self._error
        return self._frames


def _block(kind: int, body: bytes) -> bytes:
    size = struct.pack("<I", len(body) + 12)
    return struct.pack("<I", kind) + size + body + size


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + _padded(value)


def _ended(options: bytes) -> bytes:
    return options + b"\0\0\0\0" if options else b""


def _padded(data: bytes | memoryview) -> bytes:
    return bytes(data) + bytes(-len(data) % 4)
