"""Owns how QEMU is told of a chain of files: each by its descriptor, with its format and its end stated. Pure."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_readonly_vm.image.network_file import socket_node

_BACKED = ("qcow2", "qed", "vmdk")
"""Formats of which a file can have another one below."""


@dataclass(frozen=True, slots=True)
class DiskImage:
    """One file of the backing chain, as QEMU gets it: an inherited read-only descriptor and its format."""

    descriptor: int
    format: str
    is_frozen: bool = False
    """Whether it is a file of our own that nobody writes any more, though a QEMU may still hold it for writing."""
    is_network: bool = False
    """Whether the descriptor is the line to who reads a file on the network."""


def chain(files: Sequence[DiskImage], name: str | None = None, *, size: int | None = None) -> str:
    """A chain of files as QEMU's block layer has it, each by its descriptor set, with its format and its end stated.

    Without them QEMU opens what is below a file by the name in that file's header, and guesses its format. So the
    last one has nothing below it whatever its header says, for which only JSON has a word.

    :param name: of the topmost node, if it is to have one.
    :param size: bytes of zeros that are below all of them; None if nothing is.
    """
    node: dict[str, object] | None = None
    if size is not None:
        node = {"driver": "null-co", "size": size, "read-zeroes": True}
    for one in reversed(files):
        locking = {"locking": "off"} if one.is_frozen else {}
        file: dict[str, object] = {"driver": "file", "filename": f"/dev/fdset/{one.descriptor}", **locking}
        if one.is_network:
            file = socket_node(one.descriptor)
        below = {"backing": node} if one.format in _BACKED else {}
        node = {"driver": one.format, "file": file, **below}
    named = {"node-name": name, "read-only": True} if name else {}
    return json.dumps({**named, **(node or {})}, separators=(",", ":"))
