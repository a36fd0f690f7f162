"""Owns the choice of a TCP port at which something will listen that cannot be given an open socket."""

import random
import socket
from pathlib import Path

_LEAST = 10_000
"""Below are those of services."""


def port_to_come() -> int:
    """A port of the loopback that nobody has, and that the kernel gives nobody who leaves the choice to it.

    One of those would be somebody else's by the time that it is listened at: the suite's other workers take them all
    the time.
    """
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    ports = [port for port in range(_LEAST, 1 << 16) if not first <= port <= last] or [*range(first, last + 1)]
    while True:
        port = random.SystemRandom().choice(ports)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # whatever ended there
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
