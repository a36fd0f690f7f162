"""Owns what the report of a failed test carries to whoever tells of its evidence."""

from dataclasses import dataclass

INCIDENT = "readonly_vm_incident"
"""Attribute of the report of a failure that holds an `Incident`, as a dict: pytest and xdist carry it along."""


@dataclass(slots=True, kw_only=True)
class Incident:
    """The failure of a test that had machines: only what can be serialised."""

    test: str
    when: str
    """``setup``, ``call``, ``teardown``."""
    attempt: int
    """0, or which repetition of the test it was."""
    headline: str
    machines: list[str]
    folders: list[str]
    """Where the evidence of the machines is."""
    complaints: list[str]
    """Why there is none, or not all of it."""
    outputs: list[str]
    """The output folders in use."""
