"""Owns functions of the user's that bring guests into a state once, with their arguments. Pure.

What such a function is, is known as a text: when that changes, the state is made anew.
"""

import contextlib
import dis
import enum
import hashlib
import inspect
import os
import re
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from itertools import count
from operator import itemgetter
from pathlib import Path, PurePath
from types import CodeType, FunctionType, MemberDescriptorType, MethodType, ModuleType
from typing import Any, Generic, Protocol, Self

Files = str | os.PathLike[str] | list[str | os.PathLike[str]] | tuple[str | os.PathLike[str], ...]
"""Files and folders, relative to the file that a function is in."""

_OF_PROJECTS = (".git", "pyproject.toml", "pytest.toml", "pytest.ini", "tox.ini", "setup.cfg", "setup.py")

_IN_THIS_PROCESS = f"only in process {os.urandom(8).hex()} "
_UNCHANGEABLE = (str, bytes, int, float, complex, tuple, frozenset, PurePath, enum.Enum, type, FunctionType, type(None))

_PLAIN: tuple[object, ...] = (dict, list, tuple, object, Generic, Protocol)
"""Classes without code of the user's, of whose instances all that they have can be seen."""

_MOST_INSTANCES, _DEEPEST = 10_000, 40
"""Of what is larger, as a whole program that hangs on an argument is, nothing can be told."""

_untold: dict[int, int] = {}
"""Numbers of what nothing can be told of, by their ids, while they live: another may have the same place later."""
_numbers = count()
_kept: list[object] = []
"""Those of them whose end nobody would be told of."""

_READING = threading.Lock()
"""`inspect` parses the file of a class, and Python 3.11 takes two threads that do so at once for its own error."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A function with its arguments. Calling it gives the same with other arguments."""

    function: Callable[..., object]
    args: tuple[Any, ...] = field(default=(), hash=False)
    kwargs: Mapping[str, Any] = field(default_factory=dict, hash=False)
    files: tuple[str, ...] = ()
    """Files and folders of the host that it depends on, beside what it pushes."""

    def __call__(self, *args: Any, **kwargs: Any) -> Self:
        return replace(self, args=args, kwargs=kwargs)

    def __str__(self) -> str:
        given = [*map(repr, self.args), *(f"{name}={value!r}" for name, value in self.kwargs.items())]
        return f"{self.function.__name__}({', '.join(given)})" if given else self.function.__name__

    def key(self) -> str:
        """A text that changes when the function, what it names of the user's own code and data, or the arguments do.

        What is in `files` is no part of it.
        """
        return hashlib.sha256(code_of(self).encode(errors="surrogateescape")).hexdigest()

    def portable_key(self) -> str:
        """The same for whoever has the project in another folder."""
        here = rf"{re.escape(str(project_of(self.function)))}(?![\w.-])"
        text = re.sub(here, "<project>", code_of(self))
        return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def located(function: Callable[..., object], files: Files) -> tuple[str, ...]:
    """What a decorator was given of files that its function depends on."""
    several = files if isinstance(files, list | tuple) else (files,)
    return tuple(str(home_of(function) / path) for path in several)


def home_of(function: Callable[..., object]) -> Path:
    """The folder of a function's file."""
    return Path(inspect.getfile(inspect.unwrap(function))).absolute().parent


def project_of(function: Callable[..., object]) -> Path:
    """The folder of the project that a function's file is in, by what projects have there; else the file's own."""
    home = home_of(function)
    folders = (folder for folder in (home, *home.parents) if any((folder / mark).exists() for mark in _OF_PROJECTS))
    return next(folders, home)


def code_of(thing: object) -> str:
    """What a thing of the user's is or does, as text that changes when that does.

    Of what has neither a text of its own nor code to be seen, the text is another in every process.
    """
    return "\0".join(_texts(thing, _Seen()))


@dataclass(slots=True)
class _Seen:
    """What is in a text already, so that circles end."""

    numbers: dict[int, int] = field(default_factory=dict)
    """Of functions and instances, by their ids, in the order in which they came."""
    with_surroundings: bool = True
    """Whether of functions there is more than their own lines."""
    depth: int = 0
    counted: Iterator[int] = field(default_factory=count)

    def has(self, thing: object) -> bool:
        """Whether it is there already, as it is from now on."""
        number = len(self.numbers)
        return self.numbers.setdefault(id(thing), number) != number

    def apart(self) -> "_Seen":
        """For one of several things whose order means nothing, so that each has a text of its own."""
        return replace(self, numbers=dict(self.numbers), with_surroundings=False)


def _texts(thing: Any, seen: _Seen) -> Iterator[str]:
    """The parts of that text."""
    match thing:
        case Prepared():
            yield from _texts((thing.function, *thing.args, *sorted(thing.kwargs.items()), *thing.files), seen)
        case FunctionType():
            yield from _function(thing, seen)
        case MethodType():
            yield from _texts((thing.__func__, thing.__self__), seen)
        case partial():
            yield from _texts((thing.func, *thing.args, *sorted(thing.keywords.items())), seen)
        case set() | frozenset():  # which is in another order in every process
            items = sorted([*_texts(item, seen.apart())] for item in thing)
            yield from (type(thing).__qualname__, *(text for item in items for text in item), "}")
        case dict() if type(thing) is dict:
            yield from ("{", *(text for item in thing.items() for text in _texts(item, seen)), "}")
        case list() | tuple() if type(thing) in (list, tuple):
            yield from (type(thing).__name__, *(text for item in thing for text in _texts(item, seen)), ")")
        case type() if _is_users(thing):
            yield f"{thing.__qualname__} {_source(thing)}"
        case _:
            text = repr(thing)
            if inspect.isroutine(thing) or re.search(r" at 0x[0-9a-f]+", text):
                yield from _instance(thing, seen)
            else:
                yield f"{type(thing).__qualname__} {text}"


def _instance(thing: Any, seen: _Seen) -> Iterator[str]:
    """The classes that it is of, and what it has in it, as its own text does not tell that."""
    kind = type(thing)
    classes = [one for one in kind.__mro__ if one not in _PLAIN]
    is_small = seen.depth < _DEEPEST and next(seen.counted) < _MOST_INSTANCES
    if not (classes and all(map(_source, classes)) and is_small):
        yield _only_here(thing)
        return
    if seen.has(thing):
        yield f"{kind.__qualname__} {seen.numbers[id(thing)]}"
        return
    seen.depth += 1
    for one in classes:
        yield f"{one.__qualname__} {_source(one) if _is_users(one) else one.__module__}"
    items = dict.items(thing) if isinstance(thing, dict) else thing if isinstance(thing, list | tuple) else ()
    yield from _texts([*items, *sorted(_fields(thing), key=itemgetter(0))], seen)
    seen.depth -= 1


def _fields(thing: Any) -> Iterator[tuple[str, Any]]:
    """What it has by name, in a dictionary or in slots, but for what is worked out of the rest when it is wanted."""
    for name, value in getattr(thing, "__dict__", {}).items():
        if not isinstance(inspect.getattr_static(type(thing), name, None), cached_property):
            yield name, value
    for kind in type(thing).__mro__:
        for name, slot in vars(kind).items():
            if isinstance(slot, MemberDescriptorType):
                with contextlib.suppress(AttributeError):  # it has nothing in it yet
                    yield name, slot.__get__(thing)


def _only_here(thing: object) -> str:
    """A text that one thing has in this process, and no other ever."""
    if id(thing) not in _untold:
        _untold[id(thing)] = next(_numbers)
        try:
            weakref.finalize(thing, _untold.pop, id(thing)).atexit = False
        except TypeError:
            _kept.append(thing)
    return f"{_IN_THIS_PROCESS}{os.getpid()} {_untold[id(thing)]}: {thing!r}"


def _function(function: FunctionType, seen: _Seen) -> Iterator[str]:
    """Its own lines, the variables around it, what is given to it by default, and what it names of its module's."""
    yield function.__qualname__
    yield _source(function.__code__) or _only_here(function)
    if not seen.with_surroundings:
        return
    if seen.has(function):
        yield str(seen.numbers[id(function)])
        return
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # it has nothing in it yet
            yield from (name, *_texts(cell.cell_contents, seen))
    yield from _stable((function.__defaults__, function.__kwdefaults__), seen)
    for name in sorted(_names(function.__code__) & function.__globals__.keys()):
        value = function.__globals__[name]
        if isinstance(value, ModuleType | type | FunctionType) and not _is_users(value):
            continue
        yield name
        if isinstance(value, ModuleType):
            yield _source(value)
        elif isinstance(value, (*_UNCHANGEABLE, Prepared)):
            yield from _stable(value, seen)
        else:
            yield _as_first_seen(function, name)


def _stable(thing: object, seen: _Seen) -> list[str]:
    """Its texts, but for those that would be others in every process: that it is named alone is no harm."""
    return [text for text in _texts(thing, seen) if not text.startswith(_IN_THIS_PROCESS)]


@cache
def _as_first_seen(function: FunctionType, name: str) -> str:
    """What can be changed in place counts as it was: the layer itself may be what changes it."""
    return "\0".join(_stable(function.__globals__[name], _Seen(with_surroundings=False)))


@cache
def _names(code: CodeType) -> frozenset[str]:
    """The names that code and what is nested in it use, but for the variables of the module that it sets itself."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _names(constant)
    return frozenset(names - {step.argval for step in dis.get_instructions(code) if step.opname == "STORE_GLOBAL"})


@cache
def _source(thing: Any) -> str:
    """Its lines, as they were when they were first asked for, or an empty text."""
    try:
        with _READING:
            return inspect.getsource(thing)
    except (OSError, TypeError):
        return ""


@cache
def _is_users(thing: Any) -> bool:
    """Whether the text of a module, class or function is the user's own, and not that of what is installed."""
    import sysconfig  # not for who has no layers

    folders = [str(Path(__file__).parents[1]), *map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib"))]
    try:
        path = Path(inspect.getfile(thing)).absolute()
    except (TypeError, OSError):  # it is built in, or of no file
        return False
    return not any(path.is_relative_to(folder) for folder in folders)
