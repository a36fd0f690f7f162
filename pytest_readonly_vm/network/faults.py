"""Owns what a test may say of a fault, checked, and what it hears of it: how often it has done what, and to whom."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pytest_readonly_vm.errors import NetworkError
from pytest_readonly_vm.printable import count

Pair = tuple[str, str]
"""The names of two machines: the way of frames from the first to the second."""

PROTOCOLS = ("tcp", "udp", "icmp", "icmp6", "igmp", "sctp", "arp", "ipv4", "ipv6")
"""Those that a fault may be for; the last two are all that is in such a datagram."""

_TIME = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(us|ms|s)?")
_RATE = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*([kKMG]?)(?:bit(?:/s)?)?")
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, None: 1.0}
_BITS = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9}
_SHARE = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(%?)")


@dataclass(frozen=True, slots=True)
class FaultCounts:
    """What a fault has done so far."""

    seen: int
    """Frames that it was for, whether it did something to them or not."""
    done: Mapping[str, int]
    """How often it did what: ``lost``, ``delayed``, ``duplicated``, ``reordered``, ``corrupted``, ``limited``,
    ``overflowed``."""
    ways: Mapping[Pair, int]
    """How often it did something, by the way of the frames."""

    @property
    def hits(self) -> int:
        """How often it did something."""
        return sum(self.done.values())

    def __str__(self) -> str:
        if not self.seen:
            return "no frame"
        done = ", ".join(f"{count} {what}" for what, count in self.done.items()) or "nothing done"
        return f"{count(self.seen, 'frame')}, {done}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultSpec:
    """A fault as it is wanted, of values that mean something. Times in seconds, parts of 1, bits a second."""

    delay: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    corrupt: float = 0.0
    rate: float = 0.0
    cuts: bool = False
    """Whether all frames that it is for are lost."""
    nth: tuple[int, ...] = ()
    """Which of the frames, counted from 1; all if there is none."""
    protocol: str | None = None
    port: int | None = None
    seed: int = 0
    asks: bool = False

    def message(self) -> dict[str, Any]:
        """What a switch is told of it."""
        return {name: getattr(self, name) for name in self.__slots__ if getattr(self, name)}

    def __str__(self) -> str:
        words = []
        for name in ("delay", "jitter"):
            if value := getattr(self, name):
                words.append(f"{name} {1000 * value:g} ms")
        for name in ("loss", "duplicate", "reorder", "corrupt"):
            if value := getattr(self, name):
                words.append(f"{name} {100 * value:g} %")
        if self.rate:
            words.append(f"rate {self.rate:g} bit/s")
        if self.protocol:
            words.append(self.protocol)
        if self.port:
            words.append(f"port {self.port}")
        if self.nth:
            words.append(f"frame {', '.join(map(str, self.nth))}")
        return ", ".join(words)


def disturbance(
    *,
    delay: object,
    jitter: object,
    loss: object,
    duplicate: object,
    reorder: object,
    corrupt: object,
    rate: object,
    seed: int,
    protocol: str | None,
    port: int | None,
) -> FaultSpec:
    """What `PrivateNetwork.faults` was given, as values.

    :raises NetworkError: one of them cannot be, or none of them does anything.
    """
    spec = FaultSpec(
        delay=_seconds("delay", delay),
        jitter=_seconds("jitter", jitter),
        loss=_share("loss", loss),
        duplicate=_share("duplicate", duplicate),
        reorder=_share("reorder", reorder),
        corrupt=_share("corrupt", corrupt),
        rate=_rate(rate),
        seed=seed,
        **_filter(protocol, port),
    )
    if not any((spec.delay, spec.jitter, spec.loss, spec.duplicate, spec.reorder, spec.corrupt, spec.rate)):
        raise NetworkError("a fault that does nothing: say a delay, jitter, loss, duplicate, reorder, corrupt or rate")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise NetworkError(f"seed={seed!r}: not a whole number")
    if spec.jitter > spec.delay:
        raise NetworkError(f"jitter={jitter!r}: more than the delay ({delay!r}), around which it is")
    return spec


def loss(*, nth: int | Iterable[int], protocol: str | None, port: int | None, asks: bool) -> FaultSpec:
    """What `PrivateNetwork.drop` was given, as values.

    :raises NetworkError: one of them cannot be.
    """
    numbers = (nth,) if isinstance(nth, int) else tuple(nth)
    if any(isinstance(number, bool) or not isinstance(number, int) or number < 1 for number in numbers):
        raise NetworkError(f"nth={nth!r}: frames are counted from 1")
    return FaultSpec(cuts=True, nth=tuple(sorted(set(numbers))), asks=asks, **_filter(protocol, port))


def _filter(protocol: str | None, port: int | None) -> dict[str, Any]:
    if protocol is not None and protocol not in PROTOCOLS:
        raise NetworkError(f"protocol={protocol!r}: none of {', '.join(PROTOCOLS)}")
    if port is not None and (isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 65536):
        raise NetworkError(f"port={port!r}: not from 1 to 65535")
    return {"protocol": protocol, "port": port}


def _seconds(name: str, value: object) -> float:
    found = _number(value)
    if found is None and isinstance(value, str) and (match := _TIME.fullmatch(value.strip())):
        found = float(match[1]) * _SECONDS[match[2]]
    if found is None or not 0 <= found < 3600:
        raise NetworkError(f'{name}={value!r}: not a time below an hour, as 0.08 (seconds), "80ms" or "1.5s"')
    return found


def _share(name: str, value: object) -> float:
    found = _number(value)
    if found is None and isinstance(value, str) and (match := _SHARE.fullmatch(value.strip())):
        found = float(match[1]) / (100 if match[2] else 1)
    if found is None or not 0 <= found <= 1:
        raise NetworkError(f'{name}={value!r}: not a part of all frames, as 0.02 or "2%"')
    return found


def _rate(value: object) -> float:
    found = _number(value)
    if found is None and isinstance(value, str) and (match := _RATE.fullmatch(value.strip())):
        found = float(match[1]) * _BITS[match[2]]
    if found is None or not (found == 0 or 1000 <= found < 1e12):
        raise NetworkError(f'rate={value!r}: not bits a second, from 1000 on, as 1e6 or "1Mbit"')
    return found


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value)
