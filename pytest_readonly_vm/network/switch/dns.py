"""Owns DNS (RFC 1035) for the names of a network: answers of few bytes, which are never truncated. Pure.

Names are those of machines, plain and with the network's domain, and the addresses of its subnets back to them. Of
other names nothing is known, which is refused, so that a resolver asks its next server if it has one.
"""

import struct
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address

from pytest_readonly_vm.network.switch.known import Known

PORT = 53

_A, _NS, _SOA, _PTR, _AAAA, _OPT, _ANY = 1, 2, 6, 12, 28, 41, 255
_INTERNET, _ANY_CLASS = 1, 255
_NO_ERROR, _FORMAT, _NO_SUCH_NAME, _NOT_IMPLEMENTED, _REFUSED = 0, 1, 3, 4, 5
_RESPONSE, _AUTHORITATIVE, _WANTS_RECURSION = 0x8000, 0x0400, 0x0100
_LONGEST = 512
"""Bytes that everybody takes over UDP."""
_SECONDS = 1
"""For which an answer may be remembered: machines come and go within a test."""
_QUESTION = b"\xc0\x0c"
"""The name that was asked for, by its place in the message."""
_EDNS = struct.pack(">BHHIH", 0, _OPT, 1232, 0, 0)

_head = struct.Struct(">HHHHHH")


def answer(query: bytes, known: Known, instead: Mapping[bytes, IPv6Address]) -> bytes | None:
    """The response to a query; None if that is none.

    :param instead: by MACs, the addresses that machines have made where another was expected.
    :raises ValueError, struct.error, IndexError: it is cut short.
    """
    number, flags, questions, answers, authorities, additional = _head.unpack_from(query)
    if flags & _RESPONSE:
        return None
    back = _RESPONSE | _AUTHORITATIVE | flags & (0x7800 | _WANTS_RECURSION)
    if flags & 0x7800:
        return _head.pack(number, back | _NOT_IMPLEMENTED, 0, 0, 0, 0)
    if questions != 1 or answers or authorities:
        return _head.pack(number, back | _FORMAT, 0, 0, 0, 0)
    labels, at = _name(query)
    kind, group = struct.unpack_from(">HH", query, at)
    question, rest = query[_head.size : at + 4], query[at + 4 :]
    code, owner, records = (
        _found(labels, kind, known, instead) if group in (_INTERNET, _ANY_CLASS) else (_REFUSED, None, [])
    )
    body = b"".join(_record(_QUESTION, found, data) for found, data in records)
    negative = b"" if records or owner is None else _record(_wire(owner), _SOA, _authority(known))
    extra = _EDNS if additional and rest[:3] == b"\0\0\x29" else b""
    if code == _REFUSED:
        back &= ~_AUTHORITATIVE
    if _head.size + len(question + body + negative + extra) > _LONGEST:
        negative = b""  # which says but for how long there is no such name
    head = _head.pack(number, back | code, 1, len(records), bool(negative), bool(extra))
    return head + question + body + negative + extra


def _found(
    labels: list[str], kind: int, known: Known, instead: Mapping[bytes, IPv6Address]
) -> tuple[int, str | None, list[tuple[int, bytes]]]:
    """How it went, whose authority says so, and the records that there are of this kind."""
    records: list[tuple[int, bytes]]
    name = ".".join(labels)
    if labels[-1:] == ["arpa"]:
        address = _reversed(labels)
        if address is None or (address not in known.subnet and address not in known.subnet6):
            return _REFUSED, None, []
        names = [owner for owner, addresses in _names(known, instead) if address in addresses]
        records = [(_PTR, _wire(f"{one}.{known.domain}")) for one in names]
        owner = ".".join(labels[-2:])
    elif name == known.domain:
        records = [(_SOA, _authority(known)), (_NS, _wire(f"ns.{known.domain}"))]
        owner = known.domain
    elif len(labels) == 1 or name.endswith(f".{known.domain}"):
        host = labels[0] if len(labels) == 1 else name.removesuffix(f".{known.domain}")
        addresses = next((addresses for owner, addresses in _names(known, instead) if owner == host), ())
        records = [(_A if address.version == 4 else _AAAA, address.packed) for address in addresses]
        owner = known.domain if len(labels) > 1 else ""
    else:
        return _REFUSED, None, []
    wanted = [record for record in records if kind in (record[0], _ANY)]
    return _NO_ERROR if records else _NO_SUCH_NAME, owner, wanted


def _names(
    known: Known, instead: Mapping[bytes, IPv6Address]
) -> Iterator[tuple[str, tuple[IPv4Address | IPv6Address, ...]]]:
    for host in known.hosts.values():
        yield host.name, (host.ipv4, instead.get(host.mac, host.ipv6))
    yield "ns", (known.ipv4, known.ipv6)  # unless a machine is called so


def _reversed(labels: list[str]) -> IPv4Address | IPv6Address | None:
    digits = labels[-3::-1]
    try:
        if labels[-2:] == ["in-addr", "arpa"] and len(digits) == 4:
            return ip_address(".".join(digits))
        if labels[-2:] == ["ip6", "arpa"] and [len(digit) for digit in digits] == [1] * 32:
            return ip_address(bytes.fromhex("".join(digits)))
    except ValueError:
        pass
    return None


def _name(query: bytes) -> tuple[list[str], int]:
    """The labels of what is asked for, in lower case, and where they end."""
    labels, at = list[str](), _head.size
    while (size := query[at]) != 0:
        if size > 63 or at > _head.size + 255:
            raise ValueError("a question with a name that no question can have")
        labels.append(query[at + 1 : at + 1 + size].decode("latin-1").lower())
        at += 1 + size
    return labels, at + 1


def _wire(name: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".") if label) + b"\0"


def _record(owner: bytes, kind: int, data: bytes) -> bytes:
    return owner + struct.pack(">HHIH", kind, _INTERNET, _SECONDS, len(data)) + data


def _authority(known: Known) -> bytes:
    people = _wire(f"ns.{known.domain}") + _wire(f"nobody.{known.domain}")
    return people + struct.pack(">IIIII", 1, 3600, 600, 86400, _SECONDS)
