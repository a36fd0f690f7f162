"""Owns what is told of the making of machines: starts, layers, clusters."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Boot:
    """A start that succeeded: whose, its duration and phases in seconds, by which accelerator, the channel."""

    name: str
    manner: str
    """How it came to be: ``boot``, ``clone``, ``capsule``."""
    reason: str
    """Why in no better way, if there is a reason."""
    seconds: float
    phases: dict[str, float]
    """Those of a boot; none of a copy."""
    accelerator: str
    channel: str | None


@dataclass(frozen=True, slots=True)
class LayerMade:
    """A layer that was made, or a cluster formed: for which machine, what it is, how many seconds it took."""

    name: str
    layer: str
    seconds: float
    is_cluster: bool = False
