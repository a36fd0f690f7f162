"""Owns the address of a card: of its text, and what a guest makes of it. Pure."""


def mac_of(text: str) -> bytes:
    """The bytes of one that is written with colons."""
    return bytes.fromhex(text.replace(":", ""))


def interface_of(mac: bytes) -> bytes:
    """The last 8 bytes of the IPv6 addresses that a guest makes for a card (RFC 4291, appendix A)."""
    return bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:]
