"""Owns what a test may say of a fault of a disk, checked, and how QEMU is told. Pure."""

import errno
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pytest_readonly_vm.config.values import size
from pytest_readonly_vm.errors import DiskError
from pytest_readonly_vm.printable import line

Kind = Literal["read", "write", "flush"]
"""Of a request."""
Guest = Literal["report", "pause"]
"""What becomes of an error: the guest is told, or the machine stands still, as QEMU has it on a full host."""

SECTOR = 512
MOST_AFTER = 1000  # for which QEMU takes half a second to read the rules, with the square of it
MOST_SECTORS = 4096
LARGEST_DAMAGE = 1 << 20  # bytes

_TIME = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(us|ms|s)?")
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, None: 1.0}
_MOST = 10**15
"""Of any limit, in QEMU."""

# Linux writes zeros by commands of their own. What is to happen once is for one rule, as each is used up by itself.
_TYPES = {"read": ("read",), "write": ("write", "write-zeroes"), "flush": ("flush",)}
_EVENTS = {"read": "read_aio", "write": "write_aio", "flush": "flush_to_os"}
_COUNTED = {
    "read": ("failed_rd_operations",),
    "write": ("failed_wr_operations", "failed_unmap_operations"),
    "flush": ("failed_flush_operations",),
}


@dataclass(frozen=True, slots=True)
class Errors:
    """Requests that fail."""

    words: str
    """What it is, for people: ``error('write')``."""
    kind: Kind
    options: Mapping[str, Any]
    """Of QEMU's driver ``blkdebug``."""
    pauses: bool = False
    """Whether the machine stands still at such an error, instead of passing it on to the guest."""

    @property
    def counted(self) -> tuple[str, ...]:
        """By what names QEMU counts requests that have failed so."""
        return _COUNTED[self.kind]


@dataclass(frozen=True, slots=True)
class Limits:
    """Requests that have to wait."""

    words: str
    """What it is, for people."""
    limits: Mapping[str, int]
    """As `block_set_io_throttle` has them."""


def error(
    kind: Kind, *, after: int = 0, sector: int | Iterable[int] | None = None, once: bool = False, guest: str = "report"
) -> Errors:
    """Requests of a kind that fail.

    :raises DiskError: a value that cannot be.
    """
    if kind not in _TYPES:
        raise DiskError(f"error: {kind!r} is none of {', '.join(map(repr, _TYPES))}")
    pauses = _pauses("error", guest)
    sectors = _sectors(sector)
    if sectors is not None and kind == "flush":
        raise DiskError("error: sector= is for reads and writes; a flush is of the whole disk")
    given = {"after": after or None, "sector": sector, "once": once or None, "guest": "pause" if pauses else None}
    words = ", ".join([repr(kind), *(f"{name}={value!r}" for name, value in given.items() if value is not None)])
    types = _TYPES[kind][:1] if once else _TYPES[kind]
    number = errno.ENOSPC if pauses else errno.EIO
    options = _rules(types, number, event=_EVENTS[kind], after=_after("error", after), sectors=sectors, once=once)
    return Errors(line(f"error({words})"), kind, options, pauses)


def full(*, after: int = 0, guest: str = "pause") -> Errors:
    """Writes for which there is no room.

    :raises DiskError: a value that cannot be.
    """
    pauses = _pauses("full", guest)
    given = {"after": after or None, "guest": None if pauses else guest}
    words = ", ".join(f"{name}={value!r}" for name, value in given.items() if value is not None)
    number = errno.ENOSPC if pauses else errno.EIO
    options = _rules(_TYPES["write"], number, event=_EVENTS["write"], after=_after("full", after))
    return Errors(f"full({words})", "write", options, pauses)


def read_only() -> Errors:
    """Writes of a disk that takes none any more."""
    options = _rules((*_TYPES["write"], "discard"), errno.EIO, event=_EVENTS["write"])
    return Errors("read_only()", "write", options)


def throttle(
    *, iops: int | None = None, bandwidth: int | str | None = None, latency: float | str | None = None
) -> Limits:
    """Requests of a slow disk.

    :raises DiskError: a value that cannot be, or none.
    """
    limits: dict[str, int] = {}
    if iops is not None:
        limits["iops"] = _limit("iops", iops)
    if bandwidth is not None:
        try:
            limits["bps"] = _limit("bandwidth", size(bandwidth))
        except ValueError as error:
            raise DiskError(f"throttle: bandwidth={bandwidth!r}: {error}") from None
    if latency is not None:
        # QEMU has no delay for each request. A disk that serves one after another, each so long, has such a limit.
        seconds = _seconds(latency)
        if not 1e-6 <= seconds <= 1:
            raise DiskError(f"throttle: latency={latency!r} is not between one microsecond and one second")
        limits["iops"] = min(limits.get("iops", _MOST), max(round(1 / seconds), 1))
    if not limits:
        raise DiskError("throttle: by what? iops=, bandwidth= or latency=")
    given = {"iops": iops, "bandwidth": bandwidth, "latency": latency}
    words = ", ".join(f"{name}={value!r}" for name, value in given.items() if value is not None)
    return Limits(line(f"throttle({words})"), limits)


def damaged(offset: int, length: int, *, of: int) -> str:
    """In words, the damage of these bytes of a disk of `of` bytes.

    :raises DiskError: there are no such bytes, or too many.
    """
    if offset < 0 or length < 1 or offset + length > of:
        raise DiskError(f"corrupt: the disk has {of} bytes, and not {length} from byte {offset} on")
    if length > LARGEST_DAMAGE:
        raise DiskError(f"corrupt: {length} bytes are more than {LARGEST_DAMAGE}; several calls can be on at a time")
    return f"corrupt({offset}, {length})"


def _rules(
    types: Iterable[str],
    number: int,
    *,
    event: str,
    after: int = 0,
    sectors: Iterable[int] | None = None,
    once: bool = False,
) -> dict[str, Any]:
    """Those of blkdebug. Its states count requests: one more with each, until that is reached in which they fail."""
    common = {"errno": number, "once": once, **({"event": event, "state": after + 1} if after else {"event": "none"})}
    places = [{"sector": sector} for sector in sectors] if sectors is not None else [{}]
    errors = [{**common, "iotype": one, **place} for one in types for place in places]
    states = [{"event": event, "state": state, "new_state": state + 1} for state in range(1, after + 1)]
    return {"driver": "blkdebug", "inject-error": errors, **({"set-state": states} if after else {})}


def _pauses(what: str, guest: str) -> bool:
    if guest not in get_args(Guest):
        raise DiskError(f"{what}: guest={guest!r} is neither 'report' nor 'pause'")
    return guest == "pause"


def _after(what: str, after: int) -> int:
    if not 0 <= after <= MOST_AFTER:
        raise DiskError(f"{what}: after={after} is not between 0 and {MOST_AFTER} requests")
    return after


def _sectors(wanted: int | Iterable[int] | None) -> list[int] | None:
    if wanted is None:
        return None
    found = [wanted] if isinstance(wanted, int) else list(wanted)
    if not found or len(found) > MOST_SECTORS or min(found) < 0:
        raise DiskError(f"error: sector={line(repr(wanted))} is not one sector, nor up to {MOST_SECTORS} of them")
    return found


def _limit(name: str, value: int) -> int:
    if not 1 <= value < _MOST:
        raise DiskError(f"throttle: {name}={value} is not between 1 and {_MOST}")
    return value


def _seconds(value: float | str) -> float:
    if isinstance(value, str):
        if not (found := _TIME.fullmatch(value.strip())):
            raise DiskError(f"throttle: latency={value!r} is no time; say 0.01 or '10ms'")
        return float(found[1]) * _SECONDS[found[2]]
    return value if math.isfinite(value) else -1.0
