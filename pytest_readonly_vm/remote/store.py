"""Owns what a place for parcels has to be able to do: keep blobs by their digests, and heads by keys."""

from dataclasses import dataclass
from typing import Protocol

LARGEST_MANIFEST = 4 << 20
"""Bytes, as the specification of registries has it."""
LARGEST_SIGNATURE = 1 << 16
MOST_KEYS = 20_000


@dataclass(frozen=True, slots=True)
class Head:
    """What lies under a key."""

    manifest: bytes
    """As it lies there; whoever has it compares what it names."""
    signature: str | None


@dataclass(frozen=True, slots=True)
class Pruned:
    """What a prune has done."""

    keys: dict[str, float]
    """Those that are gone, and for how many seconds nobody had pushed them."""
    kept: int
    """How many are there."""
    freed: int
    """Bytes that are gone."""
    later: int
    """Bytes that no key needs, and that stay for a day yet."""


class Store(Protocol):
    """A place, as one thread has it. All methods raise `RemoteError`, within a bounded time."""

    name: str
    """For people: without passwords."""
    is_own: bool
    """Whether nobody but this user, and root, can put anything there."""
    distrust: str
    """Why it is not, in words that end a sentence which begins with what it is; empty for a place elsewhere."""

    def keys(self) -> list[str]:
        """The keys of all parcels there, in any order, `MOST_KEYS` at most."""

    def head(self, key: str) -> Head | None:
        """What lies under a key; None if nothing does."""

    def publish(self, key: str, head: Head) -> None:
        """Have all others see it, from one moment to the next, in place of what was there. Its blobs are there."""

    def has(self, digest: str, size: int) -> bool:
        """Whether a blob is there."""

    def get(self, digest: str, size: int) -> bytes:
        """A blob, whatever it is: no more is read than one byte beyond its size, and nothing is compared."""

    def put(self, digest: str, blob: bytes) -> bool:
        """Have a blob there, whole or not at all, and say whether it was sent for that."""

    def renew(self, key: str) -> None:
        """Have a parcel that is there count as pushed now."""

    def prune(self, age: float) -> Pruned:
        """Let go of parcels that nobody has pushed for so many seconds, and of what none needs that is there."""

    def close(self) -> None:
        """Let go of connections."""
