"""Owns what a test's reports carry from one process to another: what has become of machines since the last one."""

from typing import Any, TypedDict

NEWS = "readonly_vm"
"""Attribute of a test report that holds its `News`; pytest and xdist carry a report's attributes along."""


class News(TypedDict):
    """What a test's reports carry to the summary, also from an xdist worker: only what can be serialised."""

    boots: list[dict[str, Any]]
    """Each a `Boot`."""
    layers: list[dict[str, Any]]
    """Each a `LayerMade`."""
    checked: list[str]
    changed: dict[str, str]
    kept: list[dict[str, Any]]
    """Of each overlay its path, and whether its base is in a store of images."""
    machines: list[dict[str, Any]]
    """Of each machine that has ended, all that the page of the run shows of it; nothing where there is to be none."""
    during: dict[str, float]
    """The seconds of each part that the stopwatch has measured in the phase of the test that the report is on."""
    after: dict[str, float]
    """And since."""
