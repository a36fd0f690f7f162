"""Owns what a frozen guest has of the host's files, by which it is known to be stale. Pure, but for reading them."""

from collections.abc import Mapping

from pytest_readonly_vm.image.contents import Contents

Reads = Mapping[str, str]
"""Files and folders of the host that are in a frozen guest, by their paths as they were given, and digests of them."""


def are_current(reads: Reads, contents: Contents) -> bool:
    """Whether the files have in them what they had."""
    return all(content(path, contents) == known for path, known in reads.items())


def content(path: str, contents: Contents) -> str:
    """A digest, or why there is none, of which a layer may make something as well."""
    try:
        return contents.digest(path)
    except OSError as error:
        return str(error.strerror)
