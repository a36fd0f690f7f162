"""Owns what an ext4 journal has that is not yet in its place: what a kernel would replay when it mounts. Read only.

Format: https://docs.kernel.org/filesystems/ext4/journal.html
"""

import struct
from collections.abc import Callable, Iterator, Sequence

_MAGIC = 0xC03B3998
_DESCRIPTOR, _COMMIT, _REVOKE = 1, 2, 5
_64BIT, _CSUM_V2, _CSUM_V3, _FAST_COMMIT = 2, 8, 16, 32
_ESCAPED, _SAME_UUID, _LAST = 1, 2, 8

Replayed = dict[int, tuple[int, bool]]
"""By number of a block, where its newest content is in the journal, and whether its first bytes were taken for more."""


def replayed(journal: Sequence[int], read: Callable[[int], bytes]) -> Replayed:
    """What is in a journal of blocks that are to have another content.

    :param journal: where the blocks of the journal are.
    :param read: the content of one of them.
    """
    if not journal:
        return {}
    head = read(journal[0])
    magic, kind, _, _, length, first, sequence, start = struct.unpack_from(">8I", head)
    features = struct.unpack_from(">I", head, 40)[0] if kind == 4 else 0
    last = min(length, len(journal))
    if features & _FAST_COMMIT:
        last -= struct.unpack_from(">I", head, 84)[0] or 256
    if magic != _MAGIC or kind not in (3, 4) or not start or not 0 < first <= start < last:
        return {}
    found: Replayed = {}
    whole: list[tuple[int, int, int, bool]] = []
    revoked: dict[int, int] = {}
    pending: list[tuple[int, int, int, bool]] = []
    to_revoke: list[int] = []
    at, left = start, last - first  # each block of it is passed once
    while left > 0:
        block = read(journal[at])
        magic, kind, number = struct.unpack_from(">3I", block)
        if magic != _MAGIC or number != sequence:
            break
        at, left = _next(at, first, last), left - 1
        if kind == _DESCRIPTOR:
            for target, flags in _tags(block, features):
                pending.append((sequence, target, journal[at], bool(flags & _ESCAPED)))
                at, left = _next(at, first, last), left - 1
        elif kind == _REVOKE:
            to_revoke += _revocations(block, features)
        elif kind == _COMMIT:
            whole += pending
            revoked |= dict.fromkeys(to_revoke, sequence)
            pending, to_revoke = [], []
            sequence = (sequence + 1) & 0xFFFFFFFF
        else:
            break
    for when, target, place, is_escaped in whole:
        if revoked.get(target, -1) < when:
            found[target] = place, is_escaped
    return found


def content(block: bytes, is_escaped: bool) -> bytes:
    """A block as it was before it came into the journal."""
    return struct.pack(">I", _MAGIC) + block[4:] if is_escaped else block


def _next(at: int, first: int, last: int) -> int:
    return at + 1 if at + 1 < last else first


def _tags(block: bytes, features: int) -> Iterator[tuple[int, int]]:
    has_sum = features & (_CSUM_V2 | _CSUM_V3)
    size = 16 if features & _CSUM_V3 else 8 + (2 if features & _CSUM_V2 else 0) + (4 if features & _64BIT else 0)
    at, end = 12, len(block) - (4 if has_sum else 0)
    while at + size <= end:
        if features & _CSUM_V3:
            low, flags, high = struct.unpack_from(">3I", block, at)
        else:
            low, flags = struct.unpack_from(">I2xH", block, at)
            high = struct.unpack_from(">I", block, at + 8)[0] if features & _64BIT else 0
        yield low | (high << 32 if features & _64BIT else 0), flags
        at += size + (0 if flags & _SAME_UUID else 16)
        if flags & _LAST:
            return


def _revocations(block: bytes, features: int) -> list[int]:
    size = 8 if features & _64BIT else 4
    end = min(struct.unpack_from(">I", block, 12)[0], len(block))
    kind = ">Q" if size == 8 else ">I"
    return [struct.unpack_from(kind, block, at)[0] for at in range(16, end - size + 1, size)]
