"""Owns a file of a tar that has a few bytes and is said to be large."""

import tarfile


def sparse_member(name: str, begins: bytes, size: int) -> bytes:
    """As GNU tar writes it; behind it goes another member, or the end of a tar."""
    table = f"2\n0\n{len(begins)}\n{size}\n0\n".encode().ljust(512, b"\0")
    info = tarfile.TarInfo(name)
    info.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": name,
        "GNU.sparse.realsize": str(size),
    }
    info.size = len(table) + len(begins)
    return info.tobuf(tarfile.PAX_FORMAT) + (table + begins).ljust(-(-info.size // 512) * 512, b"\0")
