"""Owns which machines a test will want, and which tests start from the same frozen guest, before any of them runs.

That is known from what was given, from markers, from parameters, and from which fixtures are overridden. What an
overridden fixture returns is not known without running it, only which one it is. All texts are the same in every
process and on every computer that collects the same tests, so that workers and shards agree without a word.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePath
from types import CodeType
from typing import Any

import pytest

from pytest_readonly_vm.config.prepared import Prepared
from pytest_readonly_vm.config.setting import Given, Part
from pytest_readonly_vm.config.settings import SETTINGS, VmConfig
from pytest_readonly_vm.config.table import SCOPES
from pytest_readonly_vm.errors import ConfigurationError
from pytest_readonly_vm.plugin import markers
from pytest_readonly_vm.plugin.given import configured, given_images, given_settings

_OWN = ("readonly_vm", "readonly_vm_factory")
_CLUSTER = "readonly_vm_cluster"
_OURS = __name__.partition(".")[0]
_SHAPING = tuple(
    name for name, one in SETTINGS.items() if one.parts & (Part.BOOT | Part.CAPSULE | Part.KEY | Part.START)
)
"""The settings by which frozen guests differ."""

_found = pytest.StashKey[list["Wish"]]()

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


@dataclass(frozen=True, slots=True)
class Wish:
    """One machine, or cluster, that a test will ask for."""

    fixture: str
    config: VmConfig
    """As far as it is known; images that are names of a list are not looked up."""
    unknown: Mapping[str, str]
    """What is decided by fixtures of the user's: the name of a setting or of a rung, and which fixture that is."""
    scope: str | None
    """How long it lives; None if that is not known."""
    node: str
    """Whose it is, as a node id."""

    @property
    def is_known(self) -> bool:
        """Whether `config` is what the machine will have."""
        return not self.unknown

    def kind(self, path: Callable[[PurePath], str] = str) -> str:
        """A text that is equal for machines that start from the same frozen guest.

        :param path: how a path is told.
        """
        return self._text(_SHAPING, path)

    def likeness(self) -> str:
        """A text that is equal for machines with the same settings."""
        return self._text(SETTINGS, str)

    def _text(self, names: Iterable[str], path: Callable[[PurePath], str]) -> str:
        usual = VmConfig()
        values = {name: getattr(self.config, name) for name in names if name not in self.unknown}
        told = [f"{name}={text_of(value, path)}" for name, value in values.items() if value != getattr(usual, name)]
        for name, which in self.unknown.items():
            if name in names or name not in SETTINGS:
                told.append(f"{name} by {which}")
        return "; ".join(told) or "as usual"


def wishes(item: pytest.Item) -> list[Wish]:
    """The machines that a test will ask for by its fixtures; none that it asks for while it runs."""
    if _found not in item.stash:
        item.stash[_found] = _wishes(item)
    return item.stash[_found]


def _wishes(item: pytest.Item) -> list[Wish]:
    names = getattr(item, "fixturenames", ())
    own = _OWN[:1] if _OWN[0] in names else _OWN[1:]  # the one asks for the other
    found = [_wish(item, "vm_config", name) for name in (*own, _CLUSTER) if name in names]
    for scope in SCOPES[1:]:
        if f"readonly_vm_{scope}" in names:
            found.append(_wish(item, f"vm_config_{scope}", f"readonly_vm_{scope}"))
    return [one for one in found if one is not None]


def kind_of(wished: Iterable[Wish]) -> str | None:
    """A text that is equal for tests that start from the same frozen guests; None if a test wants no machine."""
    return " and ".join(sorted({wish.kind() for wish in wished})) or None


def name_of_kind(wished: Iterable[Wish]) -> str:
    """A short name of it, by which durations are kept: the same wherever the images of a project are."""
    kinds = {wish.kind(lambda path: path.name) for wish in wished}
    return hashlib.sha256(" and ".join(sorted(kinds)).encode(errors="replace")).hexdigest()[:16]


def shared_by(wished: Iterable[Wish], *, with_session: bool) -> set[str]:
    """A text for each machine that a test shares with others, which have the same.

    :param with_session: whether those count that live as long as the session.
    """
    scopes = {"function"} if with_session else {"function", "session"}
    return {f"{wish.node} {wish.fixture} {wish.kind()}" for wish in wished if wish.scope not in scopes}


def variant(item: pytest.Item) -> str:
    """What of a test's markers and parameters may change its machines, whichever it asks for, as text."""
    marks = [text_of([mark.args, mark.kwargs]) for mark in item.iter_markers("vm")]
    spec = getattr(item, "callspec", None)
    parameters = {name: value for name, value in spec.params.items() if name.startswith("vm_")} if spec else {}
    return text_of([marks, parameters])


def _wish(item: pytest.Item, rung: str, fixture: str) -> Wish | None:
    info = getattr(item, "_fixtureinfo", None)
    definitions: Mapping[str, Any] = getattr(info, "name2fixturedefs", {})
    spec = getattr(item, "callspec", None)
    given: dict[str, object] = {name: one.value for name, one in given_settings(item.config).items()}
    if images := given_images(item.config):
        given["image"] = images[0].value
    unknown: dict[str, str] = {}
    rungs = _OWN if fixture == _OWN[0] else (fixture,)
    for name in (*(f"vm_{name}" for name in SETTINGS), rung, *rungs):
        short = name.removeprefix("vm_") if name.removeprefix("vm_") in SETTINGS else name
        which = " of ".join(_overridden(name, definitions))
        if spec is not None and name in spec.params and not which:
            value = spec.params[name]
            given[short] = value.value if isinstance(value, Given) else value
        elif which:
            unknown[short] = which + _parameters(name, definitions, spec)
    usual = VmConfig()
    try:
        config = configured(item.config, {name: given.get(name, getattr(usual, name)) for name in SETTINGS})
    except ConfigurationError:  # of a parameter; the test will tell
        return None
    scope = _scope_of(fixture, config, item, unknown)
    node = _node(item, scope or "module")
    marked = item if scope == "function" or fixture in _OWN else node
    try:
        marks = markers.settings_of(marked)
        for settings in marks:
            config = config.with_settings(settings)
            for name in settings:  # a marker wins over a fixture
                unknown.pop(name, None)
    except ConfigurationError:
        return None
    if fixture in _OWN and "scope" not in unknown and config.scope != scope:
        scope = config.scope
        node = _node(item, scope)
    if fixture != _CLUSTER:
        unknown.pop("cluster", None)
        config = replace(config, cluster=None)
    return Wish(fixture, config, unknown, scope, node.nodeid)


def _scope_of(fixture: str, config: VmConfig, item: pytest.Item, unknown: Mapping[str, str]) -> str | None:
    if fixture == "readonly_vm":
        return None if "scope" in unknown else config.scope
    scope = fixture.removeprefix("readonly_vm_")
    return scope if scope in SCOPES else "function"


def _node(item: pytest.Item, scope: str) -> pytest.Item | pytest.Collector:
    """What a machine of a scope belongs to."""
    if scope == "session":
        return item.session
    if scope == "package":
        return item.getparent(pytest.Package) or item.session
    kinds: dict[str, type[pytest.Collector]] = {"module": pytest.Module, "class": pytest.Class}
    kind = kinds.get(scope)
    return (item.getparent(kind) if kind is not None else None) or item


def _overridden(name: str, definitions: Mapping[str, Any]) -> Iterator[str]:
    """Which fixtures of the user's decide something: the one in force, and those that it asks for by the same name."""
    for definition in reversed(definitions.get(name, ())):
        if (which := _which(definition)) is None:
            return
        yield which
        if name not in definition.argnames:
            return


def _which(definition: Any) -> str | None:
    """A fixture of the user's, as text; None for one of ours or of pytest, as a parameter of a test is."""
    function = definition.func
    module = str(getattr(function, "__module__", ""))
    if module.partition(".")[0] in (_OURS, "_pytest"):
        return None
    code = getattr(function, "__code__", None)
    if isinstance(code, CodeType) and _is_constant(code):  # so another one with the same lines returns the same
        return hashlib.sha256(code.co_code + repr(code.co_consts).encode(errors="replace")).hexdigest()[:16]
    return f"{definition.baseid}::{getattr(function, '__qualname__', type(function).__qualname__)}"


def _is_constant(code: CodeType) -> bool:
    """Whether a function has nothing to go by: no names, and no code in it, which would be told by its address."""
    has_names = code.co_names or code.co_varnames or code.co_freevars
    return not has_names and not any(isinstance(constant, CodeType) for constant in code.co_consts)


def _parameters(name: str, definitions: Mapping[str, Any], spec: Any) -> str:
    """What of a test's parameters a fixture may see: its own, and those of what it asks for."""
    if spec is None:
        return ""
    reached, waiting = set(), [name]
    while waiting:
        if (one := waiting.pop()) not in reached:
            reached.add(one)
            for definition in definitions.get(one, ()):
                if definition.func is not None and not str(definition.func.__module__).startswith(_OURS):
                    waiting += definition.argnames
    seen = {one: spec.params[one] for one in sorted(reached) if one in spec.params}
    places = getattr(spec, "indices", {})
    return "".join(f" with {one}={text_of(value)}, {places.get(one, 0)}" for one, value in seen.items())


def text_of(value: object, path: Callable[[PurePath], str] = str) -> str:
    """A value as text, without what is another in every process.

    :param path: how a path in it is told.
    """
    match value:
        case PurePath():
            return path(value)
        case Given():
            return text_of(value.value, path)
        case Prepared():
            arguments = [text_of(one, path) for one in value.args]
            arguments += [f"{name}={text_of(one, path)}" for name, one in value.kwargs.items()]
            return f"{text_of(value.function)}({', '.join(arguments)})"
        case dict():
            return f"{{{', '.join(sorted(f'{text_of(k, path)}: {text_of(v, path)}' for k, v in value.items()))}}}"
        case set() | frozenset():
            return f"{{{', '.join(sorted(text_of(one, path) for one in value))}}}"
        case list() | tuple():
            return f"[{', '.join(text_of(one, path) for one in value)}]"
        case _ if callable(value) and hasattr(value, "__qualname__"):
            return f"{getattr(value, '__module__', '')}:{value.__qualname__}"
        case _:
            return _ADDRESS.sub("", repr(value))
