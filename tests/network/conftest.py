"""Fixtures of tests with private networks."""

from tests.network.plugs import lab, lan, plugs

__all__ = ("lab", "lan", "plugs")
