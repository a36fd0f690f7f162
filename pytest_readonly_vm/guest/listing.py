"""Owns the listing of a file system by the guest itself, for those that cannot be read from outside."""

import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_readonly_vm.errors import GuestLacks
from pytest_readonly_vm.guest.guest import Guest

# BusyBox's find cannot print, its stat can; both mark where a file begins by what no name has in it.
_LIST = """\
if find / -maxdepth 0 -printf x >/dev/null 2>&1; then
    find "$1" -xdev -printf "$2 %i %m %y %U %G %s %n %C@ %p\\n"
else
    find "$1" -xdev -exec stat -c "$2 %i %f - %u %g %s %h %z %n" {} +
fi
true
"""
_DIGEST = """\
xargs -0 sh -c '
for one; do
    if [ -L "$one" ]; then readlink "$one" | sha256sum
    elif [ -f "$one" ]; then sha256sum <"$one" || echo -
    else stat -c %t:%T "$one" | sha256sum
    fi
done 2>/dev/null' sh
"""
_RECORD = re.compile(
    rb" (\d+) ([0-9a-f]+) (\S) (\d+) (\d+) (\d+) (\d+) ([\d.]+|[\d-]+ [\d:.]+ [+-]\d{4}) (.*)", re.DOTALL
)
_LETTERS = {"d": 0o040000, "f": 0o100000, "l": 0o120000, "p": 0o010000, "s": 0o140000, "c": 0o020000, "b": 0o060000}
_AT_ONCE = 1 << 20


@dataclass(frozen=True, slots=True)
class Listed:
    """What is known of one file."""

    inode: int
    mode: int
    """With its kind."""
    uid: int
    gid: int
    size: int
    links: int
    changed: bytes
    """When its inode changed last."""

    @property
    def moment(self) -> tuple[object, ...]:
        """What is another one when a file has been written or replaced."""
        return self.inode, self.changed


Listing = dict[bytes, Listed]
"""By paths."""


def listing(guest: Guest, root: bytes) -> Listing:
    """All files of the file system that is mounted at a place.

    :raises GuestLacks: the guest has neither a ``find`` that prints nor a ``stat``.
    """
    mark = secrets.token_hex(8)
    command = ["sh", "-c", _LIST, "sh", _text(root), mark]
    result = guest.ask(command)
    found: Listing = {}
    for record in result.stdout_bytes.split(mark.encode()):
        if match := _RECORD.fullmatch(record.removesuffix(b"\n")):
            inode, mode, letter, uid, gid, size, links, changed, path = match.groups()
            kind = letter.decode(errors="replace")
            bits = int(mode, 16) if kind == "-" else int(mode, 8) | _LETTERS.get(kind, 0)
            found[path] = Listed(int(inode), bits, int(uid), int(gid), int(size), int(links), changed)
    if not found:
        why = result.stderr.strip().rpartition("\n")[2] or "it printed nothing"
        raise GuestLacks(
            f"{guest.name}: what has changed at {_text(root)} cannot be told: its file system is not read from "
            f"outside, and in the guest neither `find -printf` nor `stat -c` lists it: {why}"
        )
    return found


def digests(guest: Guest, paths: Sequence[bytes]) -> list[bytes]:
    """Of each file a digest of what is in it: content, target or the numbers of a device."""
    found: list[bytes] = []
    for batch in _batches(paths):
        told = guest.ask(_DIGEST, input=b"".join(path + b"\0" for path in batch)).stdout_bytes.splitlines()
        found += [line.split()[0] if line.split() else b"" for line in told[: len(batch)]]
        found += [b""] * (len(batch) - len(told))
    return found


def digest(content: bytes) -> bytes:
    """The same of a file with such a content."""
    return hashlib.sha256(content).hexdigest().encode()


def _batches(paths: Sequence[bytes]) -> list[list[bytes]]:
    found: list[list[bytes]] = []
    size = _AT_ONCE
    for path in paths:
        if size + len(path) >= _AT_ONCE:
            found.append([])
            size = 0
        found[-1].append(path)
        size += len(path) + 1
    return found


def _text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")
