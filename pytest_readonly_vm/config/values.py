"""Owns how the value of a setting is read: texts, sizes, numbers, switches. Pure, but for where homes are.

Each function takes what somebody wrote and returns what a setting holds, or raises ValueError with the reason.
"""

import difflib
import os
import re
import shlex
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TypeVar

from pytest_readonly_vm.config.cluster import GuestCluster
from pytest_readonly_vm.config.layer import GuestLayer

T = TypeVar("T")

_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_SIZE = re.compile(r"(\d+)([KMGT])(?:i?B)?", re.IGNORECASE)
_SMALLEST = 1 << 20
_MOST_CPUS = 4096  # of QEMU's largest machine type, q35
_HEALTH_WORDS = ("kernel", "units", "cores")
_READY_WORDS = ("auto", "channel", "agent", "shell", "ssh", "systemd", "none")

_DIGITS = 6
"""Of the numbers of shards."""


def text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a text")
    _refuse_what_cannot_be_passed(value)
    return value


def _refuse_what_cannot_be_passed(written: str) -> None:
    """The kernel takes neither paths nor arguments with a NUL, nor what stands for no bytes at all."""
    if "\0" in written:
        raise ValueError(f"{written!r} has a NUL character")
    try:
        os.fsencode(written)
    except UnicodeEncodeError:
        raise ValueError(f"{written!r} has half a character, a lone surrogate") from None


class Secret(str):
    """A text that shows itself to nobody by accident: tracebacks and reports print `repr`."""

    def __repr__(self) -> str:
        return "'***'"


def secret(value: object) -> Secret:
    if not isinstance(value, str):
        raise ValueError("it is not a text")
    return Secret(value)


def path(value: object) -> Path:
    """A path; in a text, a tilde at the beginning is a home, or itself where there is none; see `located`."""
    if not isinstance(value, str | Path) or not str(value):
        raise ValueError(f"{value!r} is not a path")
    _refuse_what_cannot_be_passed(str(value))
    return Path(_expanded(value) if isinstance(value, str) else value)


def _expanded(written: str) -> str:
    return os.path.expanduser(written)  # noqa: PTH111 (for a Path, ./~name is the same as ~name)


def located(path: Path, *, written: object, folder: Path | None) -> Path:
    """A path that was read, from the folder in which it was meant.

    As a shell has it, a tilde that names no home is part of the name; but only where there is a file of that name.
    """
    found = path if folder is None else folder / path
    is_homeless = isinstance(written, str) and written.startswith("~") and _expanded(written) == written
    if is_homeless and not os.path.lexists(found):
        user = str(written)[1:].partition("/")[0]
        missing = f"there is no user {user!r}" if user else "this user has no home directory, as HOME is not set"
        raise ValueError(f"{written!r} is in no home: {missing}; if it is the name of a file, write ./{written}")
    return _without_detours(found)


def _without_detours(path: Path) -> Path:
    """A path without ``..``, for people to read; as it is where that would lead elsewhere, behind a link."""
    plain = os.path.normpath(path)
    return Path(plain) if ".." in path.parts and os.path.realpath(plain) == os.path.realpath(path) else path


def folder_or_url(value: object) -> Path | str:
    """A place where things are shared: what has ``://`` in it is a URL."""
    if isinstance(value, str) and "://" in value:
        return text(value)
    return path(value)


def program(value: object) -> str:
    """A name on PATH, or a path."""
    return _expanded(text(value))


def is_size(written: str) -> bool:
    """Whether a text is meant as a size."""
    return bool(_SIZE.fullmatch(written.strip()))


def size(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"{value!r} is not a size; write it like 512M or 2G")
    if isinstance(value, int):
        found = value
    elif match := _SIZE.fullmatch(value.strip()):
        found = int(match[1]) * _UNITS[match[2].upper()]
    else:
        raise ValueError(f"{value!r} is not a size; write it like 512M or 2G")
    if found < _SMALLEST:
        raise ValueError(
            f"{value!r} is {found} bytes, less than the smallest that is taken (1M); write it like 512M or 2G"
        )
    return found


def count(value: object) -> int:
    number = int(value) if isinstance(value, str) and value.strip().isdecimal() else value
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise ValueError(f"{value!r} is not a whole number of at least 1")
    return number


def cpus(value: object) -> int:
    number = count(value)
    if number > _MOST_CPUS:
        raise ValueError(f"{number} are more than any machine of QEMU can have ({_MOST_CPUS})")
    return number


def seconds(value: object) -> float:
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError
        duration = float(value)
    except ValueError:
        raise ValueError(f"{value!r} is not a number of seconds") from None
    if not 0 < duration < float("inf"):
        raise ValueError(f"{value!r} is not a positive number of seconds")
    return duration


def factor_or(word: str) -> Callable[[object], str]:
    """A parser for a positive number or one word."""

    def parse(value: object) -> str:
        written = str(value).strip()
        if written != word:
            try:
                seconds(value)
            except ValueError:
                raise ValueError(f"{value!r} is neither a positive number nor {word}") from None
        return written

    return parse


def switch(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in {"on", "yes", "true", "1"}:
        return True
    if isinstance(value, str) and value.lower() in {"off", "no", "false", "0"}:
        return False
    raise ValueError(f"{value!r} is neither on nor off")


def arguments(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        try:
            return tuple(map(text, shlex.split(value)))
        except ValueError as error:
            raise ValueError(f"{value!r} cannot be split into arguments: {error}") from None
    if isinstance(value, Sequence) and all(isinstance(item, str) for item in value):
        return tuple(map(text, value))
    raise ValueError(f"{value!r} is not a list of texts")


def patterns(value: object) -> tuple[str, ...]:
    """Regular expressions, one or several."""
    found = (value,) if isinstance(value, str) else value
    if not isinstance(found, list | tuple):
        raise ValueError(f"{value!r} is not a list of regular expressions")
    return tuple(_pattern(text(one)) for one in found)


def _pattern(written: str) -> str:
    try:
        re.compile(written)
    except re.error as error:
        raise ValueError(f"{written!r} is not a regular expression: {error}") from None
    return written


def health(value: object) -> tuple[str, ...]:
    """What health gates look at, each by its name; several may be in one text, with commas between."""
    if isinstance(value, list | tuple):
        return tuple(dict.fromkeys(found for one in value for found in health(one)))
    written = text(value).strip()
    if written.startswith("journal:"):
        return (f"journal:{_pattern(written.removeprefix('journal:'))}",)
    names = tuple(name.strip() for name in written.split(","))
    for name in names:
        if name not in _HEALTH_WORDS:
            raise ValueError(
                f"{name!r} is none of {', '.join(_HEALTH_WORDS)}, journal:REGEX{nearest(name, _HEALTH_WORDS)}"
            )
    return names


def names(value: object) -> tuple[str, ...]:
    """Names, each once; several may be in one text, with commas between."""
    if isinstance(value, list | tuple):
        return tuple(dict.fromkeys(found for one in value for found in names(one)))
    found = tuple(name.strip() for name in text(value).split(","))
    if wrong := [name for name in found if not _NAME.fullmatch(name)]:
        raise ValueError(f"{wrong[0]!r} is not a name of letters, digits, '-', '_' and '.'")
    return tuple(dict.fromkeys(found))


def one_of(*choices: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if not isinstance(value, str) or value not in choices:
            near = nearest(str(value), choices)
            raise ValueError(f"{value!r} is not one of {', '.join(choices)}{near}")
        return value

    return parse


def whole_number_or(word: str) -> Callable[[object], str]:
    """A parser for 0, 1, 2, … or one word."""

    def parse(value: object) -> str:
        written = str(value).strip()
        if isinstance(value, bool) or not (written == word or written.isdecimal()):
            raise ValueError(f"{value!r} is neither a whole number nor {word}")
        return written

    return parse


def shard(value: object) -> str:
    """Which of how many: ``2/8``."""
    written = text(value).strip()
    number, slash, shards = written.partition("/")
    if not (slash and number.isdecimal() and shards.isdecimal() and number.isascii() and shards.isascii()):
        raise ValueError(f"{value!r} is not of the form NUMBER/SHARDS, like 2/8")
    if not (len(shards) <= _DIGITS and len(number) <= _DIGITS and 1 <= int(number) <= int(shards)):
        raise ValueError(f"{value!r}: the first number is to be 1 at least, and no more than the second")
    return f"{int(number)}/{int(shards)}"


def budget(value: object) -> str:
    written = text(value).strip()
    memory, comma, cpus = written.partition(",")
    if written not in ("auto", "off"):
        size(memory)
        if comma:
            count(cpus)
    return written


def readiness(value: object) -> object:
    if callable(getattr(value, "wait", None)) or callable(value):
        return value
    written = text(value)
    kind, _, argument = written.partition(":")
    if written in _READY_WORDS or (kind == "unit" and argument):
        return written
    if kind == "port" and argument.isdecimal() and 0 < int(argument) < 1 << 16:
        return written
    if kind == "console" and argument:
        _pattern(argument)
    elif not (kind == "event" and re.fullmatch(r"[A-Z0-9_]+", argument)):
        forms = "console:PATTERN, event:QMP_EVENT_NAME, port:NUMBER, unit:NAME"
        raise ValueError(f"{written!r} is none of {', '.join(_READY_WORDS)}, {forms}{nearest(written, _READY_WORDS)}")
    return written


def layers(value: object) -> tuple[GuestLayer, ...]:
    if isinstance(value, list | tuple):
        return tuple(found for one in value for found in layers(one))
    if isinstance(value, GuestLayer):
        return (value,)
    return (_imported(value, GuestLayer, "layer"),)


def cluster(value: object) -> GuestCluster:
    return value if isinstance(value, GuestCluster) else _imported(value, GuestCluster, "cluster")


def _imported(value: object, kind: type[T], decorator: str) -> T:
    """What a user's module has by the name that is said as ``MODULE:NAME``."""
    module, _, name = text(value).partition(":")
    if not name:
        raise ValueError(f"{value!r} is not of the form MODULE:NAME")
    try:
        found = getattr(import_module(module), name)
    except Exception as error:  # whatever the user's module raises
        raise ValueError(f"{value!r} cannot be had: {error}") from None
    if not isinstance(found, kind):
        raise ValueError(f"{value!r} is no {decorator}; put @pytest_readonly_vm.{decorator} above the function")
    return found


def nearest(word: str, choices: Sequence[str]) -> str:
    """`` (did you mean 'memory'?)`` for a word that resembles a choice, else nothing."""
    found = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    return f" (did you mean {found[0]!r}?)" if found else ""
