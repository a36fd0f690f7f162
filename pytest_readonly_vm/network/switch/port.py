"""Owns one port of the switch: the stream to a machine's card, in packets, and what waits to be taken from it."""

import fcntl
import socket
import struct
import sys
import termios
from collections.abc import Callable

from pytest_readonly_vm.network.switch.packet import HEAD, LARGEST, SMALLEST

WAITING = 1 << 20
"""Bytes that may wait for a card which does not take them; what is more is dropped, as a switch does."""
_CHUNK = 256 << 10
_BUFFER = 1 << 20

_length = struct.Struct(">I").unpack_from


class Broken(Exception):
    """What comes over the line is no sequence of packets."""


class Port:
    """A port that has a line."""

    def __init__(self, number: int, name: str, line: socket.socket, on_wait: Callable[["Port"], None]) -> None:
        """`number` stays that of the card when its machine is made anew; `name` is for people.

        `on_wait` hears when something begins to wait for the line, and when nothing does any more.
        """
        self.number = number
        self.name = name
        self.line = line
        self.received = self.sent = self.overflowed = 0
        """Frames from the card, to it, and those that it was too slow for."""
        self._on_wait = on_wait
        self._rest = b""
        self._waiting = bytearray()
        line.setblocking(False)
        line.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)

    def take(self) -> list[bytes] | None:
        """The packets that have come; None when the line's other end has been closed.

        :raises Broken: they are none.
        """
        try:
            data = self.line.recv(_CHUNK)
        except BlockingIOError:
            return []
        except ConnectionError:
            return None
        if not data:
            return None
        if self._rest:
            data = self._rest + data
        packets, at, end = [], 0, len(data)
        while at + HEAD <= end:
            (size,) = _length(data, at)
            if size > LARGEST:
                raise Broken(f"a frame of {size} bytes")
            after = at + HEAD + size
            if after > end:
                break
            self.received += 1
            if size >= SMALLEST:  # else it is addressed to nobody, and lost
                packets.append(data[at:after])
            at = after
        self._rest = data[at:]
        return packets

    def give(self, packets: list[bytes]) -> None:
        """Send packets to the card, or keep them until it takes them; those that it is too slow for are dropped."""
        room = WAITING - len(self._waiting)
        taken = packets
        if sum(map(len, packets)) > room:
            taken = []
            for packet in packets:
                if len(packet) > room:
                    break
                taken.append(packet)
                room -= len(packet)
            self.overflowed += len(packets) - len(taken)
        self.sent += len(taken)
        data = b"".join(taken)
        if self._waiting:
            self._waiting += data
        elif left := data[self._send(data) :]:
            self._waiting += left
            self._on_wait(self)

    def push(self) -> None:
        """Send as much of what waits as the line takes."""
        del self._waiting[: self._send(self._waiting)]
        if not self._waiting:
            self._on_wait(self)

    def _send(self, data: bytes | bytearray) -> int:
        try:
            return self.line.send(data) if data else 0
        except BlockingIOError:
            return 0
        except OSError:  # its machine has ended, of which reading will tell
            return len(data)

    @property
    def is_waiting(self) -> bool:
        """Whether there is something that the line did not take so far."""
        return bool(self._waiting)

    @property
    def unread(self) -> int:
        """Bytes on their way to the card that its QEMU has not read yet."""
        queued = fcntl.ioctl(self.line, termios.TIOCOUTQ, b"\0" * 4)
        return len(self._waiting) + int.from_bytes(queued, sys.byteorder)

    def close(self) -> None:
        self.line.close()
