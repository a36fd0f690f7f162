"""Owns what is told of files that are not what they were. Pure."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, overload

from pytest_readonly_vm.errors import VmError
from pytest_readonly_vm.printable import line

Kind = Literal["made", "changed", "removed", "touched"]
Aspect = Literal["type", "content", "target", "device", "mode", "owner", "links", "attributes"]

_SHOWN = 40
_LONGEST_NAME = 200
_LINE_END = "\\n"
_LONGEST_REPR = 236
_MOST_OF_A_FAMILY = 100
_ORDER = ("removed", "changed", "made")
_KINDS = {
    0o040000: "directory",
    0o100000: "file",
    0o120000: "symbolic link",
    0o010000: "fifo",
    0o140000: "socket",
    0o020000: "character device",
    0o060000: "block device",
}


@dataclass(frozen=True, slots=True)
class FileState:
    """What a file was at one moment, but for what is in it."""

    type: str
    """``file``, ``directory``, ``symbolic link``, ``fifo``, ``socket``, ``character device``, ``block device``."""
    mode: int
    """The permissions, as in ``0o644``, with the bits for set-user-ID and its like."""
    uid: int
    gid: int
    size: int
    """In bytes."""
    links: int
    """How many names it has."""


def state(mode: int, uid: int, gid: int, size: int, links: int) -> FileState:
    """:param mode: with its kind, as the kernel has it."""
    return FileState(_KINDS.get(mode & 0o170000, "unknown"), mode & 0o7777, uid, gid, size, links)


Content = Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class Change:
    """A file, or what else has a name, that is not what it was."""

    path: str
    """Absolute; bytes of the name that are no UTF-8 are in it as Python has them for files (``surrogateescape``)."""
    kind: Kind
    """``made``, ``changed``, ``removed``; ``touched`` if it was written or replaced and is as it was."""
    aspects: tuple[Aspect, ...] = ()
    """What of it has changed: ``type``, ``content``, ``target`` of a symbolic link, numbers of a ``device``, ``mode``,
    ``owner``, ``links`` (its number of names), extended ``attributes``."""
    old: FileState | None = None
    """None of what was made."""
    new: FileState | None = None
    """None of what was removed."""
    _before: Content | None = field(default=None, repr=False, compare=False)
    _after: Content | None = field(default=None, repr=False, compare=False)

    def before(self) -> bytes:
        """What was in the file, or where the symbolic link pointed to.

        :raises VmError: it was neither, or not there; it is larger than 64 MiB; the moment is not kept any more.
        """
        return _content(self._before, f"{self.path} had no content before")

    def after(self) -> bytes:
        """What was in the file when `VirtualMachine.diff` was called, or where the symbolic link pointed to.

        :raises VmError: it was neither, or not there; it is larger than 1 MiB, or there were more than 32 MiB in all.
        """
        return _content(self._after, f"{self.path} had no content afterwards")

    def __str__(self) -> str:
        """``/etc/motd: changed: content (120 → 140 bytes), mode 0644 → 0600``."""
        return f"{line(self.path.replace(chr(10), _LINE_END), _LONGEST_NAME)}: {self.in_words}"

    @property
    def in_words(self) -> str:
        """The same without the path."""
        if self.kind != "changed" or self.old is None or self.new is None:
            what = self.new or self.old
            return self.kind + (f" ({what.type})" if what and what.type != "file" else "")
        return f"changed: {', '.join(_in_words(one, self.old, self.new) for one in self.aspects)}"


def _content(read: Content | None, none: str) -> bytes:
    if read is None:
        raise VmError(none)
    return read()


def _in_words(aspect: Aspect, old: FileState, new: FileState) -> str:
    if aspect == "type":
        return f"{old.type} → {new.type}"
    if aspect == "content" and old.size != new.size:
        return f"content ({old.size} → {new.size} bytes)"
    if aspect == "mode":
        return f"mode {old.mode:04o} → {new.mode:04o}"
    if aspect == "owner":
        return f"owner {old.uid}:{old.gid} → {new.uid}:{new.gid}"
    if aspect == "links":
        return f"links {old.links} → {new.links}"
    return aspect


class Changes(Sequence[Change]):
    """What is not what it was, in the order of the paths. It is true if there is anything; `touched` does not count.

    Beside what is listed: `touched`, files that were written or replaced and are what they were; `looked_at`, the
    places of the file systems that were looked at, and how: ``outside`` or ``inside``; `remark`, a sentence if there is
    one to be said of how it was found out.
    """

    def __init__(
        self,
        changes: Iterable[Change],
        *,
        looked_at: dict[str, str],
        remark: str = "",
        family: "list[Changes] | None" = None,
    ) -> None:
        found = sorted(changes, key=lambda change: change.path)
        self._changes = tuple(change for change in found if change.kind != "touched")
        self.touched = tuple(change for change in found if change.kind == "touched")
        self.looked_at = looked_at
        self.remark = remark
        self.family: list[Changes] = [] if family is None else family
        """Those that come of one question, the latest last: which of them a failed assertion was about."""
        self.family.append(self)
        del self.family[:-_MOST_OF_A_FAMILY]

    @overload
    def __getitem__(self, index: int | str) -> Change: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Change, ...]: ...
    def __getitem__(self, index: int | slice | str) -> Change | tuple[Change, ...]:
        """One by its number, or by its path."""
        if not isinstance(index, str):
            return self._changes[index]
        for change in self._changes:
            if change.path == index:
                return change
        raise KeyError(f"{index} has not changed")

    def __len__(self) -> int:
        return len(self._changes)

    def __contains__(self, what: object) -> bool:
        """Whether a change is among them, or a path."""
        return any(what in (change, change.path) for change in self._changes)

    @property
    def made(self) -> tuple[str, ...]:
        """The paths of what is new."""
        return self._paths("made")

    @property
    def changed(self) -> tuple[str, ...]:
        """The paths of what is there as before, but another."""
        return self._paths("changed")

    @property
    def removed(self) -> tuple[str, ...]:
        """The paths of what is there no more."""
        return self._paths("removed")

    def _paths(self, kind: Kind) -> tuple[str, ...]:
        return tuple(change.path for change in self._changes if change.kind == kind)

    def inside(self, *places: str) -> "Changes":
        """Those of the given files, and of what is below the given folders; all by absolute paths."""
        return self._with(change for change in self._all() if _is_below(change.path, places))

    def outside(self, *places: str) -> "Changes":
        """All but those of the given files, and of what is below the given folders; all by absolute paths."""
        return self._with(change for change in self._all() if not _is_below(change.path, places))

    def _all(self) -> Iterator[Change]:
        yield from self._changes
        yield from self.touched

    def _with(self, changes: Iterable[Change]) -> "Changes":
        return Changes(changes, looked_at=self.looked_at, remark=self.remark, family=self.family)

    def __eq__(self, other: object) -> bool:
        return self._changes == other._changes if isinstance(other, Changes) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """In few words, as pytest shows at most 240 characters; `str` has a line for each."""
        if not self._changes:
            return "<no changes>"
        counts = ", ".join(f"{len(paths)} {kind}" for kind in _ORDER if (paths := self._paths(kind)))  # type: ignore[arg-type]
        told = f"<{counts}"
        for number, change in enumerate(self._changes):
            told += (": " if number == 0 else "; ") + str(change)
            if len(told) > _LONGEST_REPR - 2:
                return f"{told[: _LONGEST_REPR - 2]}…>"
        return f"{told}>"

    def __str__(self) -> str:
        lines = [str(change) for change in self._changes[:_SHOWN]] or ["no changes"]
        if (more := len(self._changes) - _SHOWN) > 0:
            lines.append(f"… and {more} more")
        lines += [f"({self.remark})"] if self.remark else []
        return "\n".join(lines)


def _is_below(path: str, places: Sequence[str]) -> bool:
    if wrong := [place for place in places if not place.startswith("/")]:
        raise VmError(f"{wrong[0]!r} is no absolute path, as those of changes are")
    return any(path == place or path.startswith(place.rstrip("/") + "/") for place in places)
