"""Owns DHCP for IPv4 (RFC 2131): what a machine of the network is told that asks. Pure, and without a memory.

Each machine has its address from the start, by its MAC, so nothing is leased that somebody else could want: an offer
reserves nothing, a release frees nothing. Who is not on the network is not answered.
"""

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address

from pytest_readonly_vm.network.switch.known import Host, Known

SERVER_PORT, CLIENT_PORT = 67, 68

_LEASE = 3600
"""Seconds; guests renew after half of them, of which tests that travel in time see something."""
_COOKIE = b"\x63\x82\x53\x63"
_HEAD = struct.Struct(">BBBBIHH4s4s4s4s16s64s128s4s")
_BROADCAST_FLAG = 0x8000
_LEAST = 300
"""Bytes of a message, as BOOTP has it; some clients drop shorter ones."""

_OFFER, _ACK, _NAK, _INFORM = 2, 5, 6, 8
_PAD, _END = 0, 255
_MASK, _ROUTER, _DNS, _HOST_NAME, _DOMAIN, _MTU, _BROADCAST = 1, 3, 6, 12, 15, 26, 28
_WANTED, _TIME, _TYPE, _SERVER = 50, 51, 53, 54
_TFTP_SERVER, _BOOT_FILE = 66, 67


@dataclass(frozen=True, slots=True)
class Reply:
    """What is to be sent to whom."""

    data: bytes
    mac: bytes
    address: IPv4Address


def answer(data: bytes, known: Known) -> Reply | None:
    """What comes of a message to the server; None if it is not answered.

    :raises ValueError, struct.error, IndexError: it is no DHCP.
    """
    op, kind, size, _, number, _, flags, current, _, _, relay, hardware, _, _, cookie = _HEAD.unpack_from(data)
    host = known.hosts.get(hardware[:6])
    if (op, kind, size, cookie) != (1, 1, 6, _COOKIE) or host is None or relay != bytes(4):
        return None
    options = _options(data[_HEAD.size :])
    if options.get(_SERVER, known.ipv4.packed) != known.ipv4.packed:
        return None  # to another server, a machine's on this network
    asked = options.get(_WANTED) or current
    match options.get(_TYPE, b"")[:1]:
        case b"\x01":  # discover
            said = _OFFER
        case b"\x03":  # request
            said = _ACK if asked == host.ipv4.packed else _NAK
        case b"\x08":  # inform
            said = _ACK
        case _:
            return None
    is_informed = options[_TYPE][0] == _INFORM
    yours = bytes(4) if said == _NAK or is_informed else host.ipv4.packed
    server = bytes(4) if said == _NAK else known.boot_address.packed
    file = b"" if said == _NAK else known.boot_file.encode()
    head = _HEAD.pack(2, 1, 6, 0, number, 0, flags, current, yours, server, relay, hardware, b"", file, _COOKIE)
    told = {_TYPE: bytes([said]), _SERVER: known.ipv4.packed}
    if said != _NAK:
        if not is_informed:
            told[_TIME] = _LEASE.to_bytes(4, "big")
        told |= _configuration(host, known)
    body = b"".join(bytes([code, len(value)]) + value for code, value in told.items()) + bytes([_END])
    message = (head + body).ljust(_LEAST, b"\0")
    if said != _NAK and current != bytes(4):
        return Reply(message, host.mac, IPv4Address(current))
    if said == _NAK or flags & _BROADCAST_FLAG or is_informed:
        return Reply(message, b"\xff" * 6, IPv4Address("255.255.255.255"))
    return Reply(message, host.mac, host.ipv4)


def _configuration(host: Host, known: Known) -> dict[int, bytes]:
    found = {
        _MASK: known.subnet.netmask.packed,
        _BROADCAST: known.subnet.broadcast_address.packed,
        _HOST_NAME: host.name.encode(),
        _DOMAIN: known.domain.encode(),
    }
    if known.router is not None and known.router != host.ipv4:
        found[_ROUTER] = known.router.packed
    if known.dns:
        found[_DNS] = known.ipv4.packed
    if known.mtu is not None:
        found[_MTU] = known.mtu.to_bytes(2, "big")
    if known.boot_file:
        found[_BOOT_FILE] = known.boot_file.encode()
    if known.boot_server:
        found[_TFTP_SERVER] = known.boot_server.encode()
    return found


def _options(data: bytes) -> dict[int, bytes]:
    found, at = dict[int, bytes](), 0
    while at < len(data) and (code := data[at]) != _END:
        if code == _PAD:
            at += 1
            continue
        after = at + 2 + data[at + 1]
        found[code] = found.get(code, b"") + data[at + 2 : after]
        at = after
    return found
