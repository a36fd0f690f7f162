"""What this process has open, to be compared between two moments of a test."""

from collections import Counter
from pathlib import Path


def descriptors() -> Counter[str]:
    """What this process's descriptors are of, apart from that of the look itself.

    Compare by ``not descriptors() - before``: what earlier tests left to be closed later may be closed meanwhile.
    """
    found = Counter[str]()
    for link in Path("/proc/self/fd").iterdir():
        try:
            found[str(link.readlink())] += 1
        except OSError:  # that of the look itself
            continue
    return found
