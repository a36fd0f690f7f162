"""What tells one prepared state from another, and how one is asked for."""

import importlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_readonly_vm import ConfigurationError, GuestLayer, PortListens, VmConfig, layer
from pytest_readonly_vm.config.prepared import code_of


@layer
def installed(vm: Any, package: str = "nginx", *, version: int = 1) -> None:
    vm.did.append((package, version))


def module_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> GuestLayer:
    name = f"layers_{abs(hash((str(tmp_path), body)))}"
    (tmp_path / f"{name}.py").write_text(f"from pytest_readonly_vm import layer\n@layer\ndef one(vm):\n    {body}\n")
    monkeypatch.syspath_prepend(tmp_path)
    [found] = VmConfig().replace(layers=f"{name}:one").layers
    return found


def test_a_layer_gets_the_machine_and_its_arguments() -> None:
    vm = SimpleNamespace(did=[])
    for one in (installed, installed("vim"), installed("vim", version=2)):
        one.apply(vm)
    assert vm.did == [("nginx", 1), ("vim", 1), ("vim", 2)]
    assert [str(one) for one in (installed, installed("vim", version=2))] == [
        "installed",
        "installed('vim', version=2)",
    ]


def test_other_arguments_are_another_layer() -> None:
    keys = [one.key() for one in (installed, installed("vim"), installed("vim", version=2), installed(version=2))]
    assert len(set(keys)) == 4
    assert installed("vim").key() == installed("vim").key()
    assert installed("vim") == installed("vim")
    assert len({installed("vim"), installed("vim")}) == 1


def test_one_function_around_other_values_is_another_layer() -> None:
    def around(value: list[int]) -> GuestLayer:
        @layer
        def inner(vm: Any) -> None:
            vm.did.append(value)

        return inner

    assert around([1]).key() != around([2]).key()
    assert around([1]).key() == around([1]).key()


def test_a_configuration_with_any_argument_has_a_hash() -> None:
    assert hash(VmConfig().replace(layers=installed(["a", "b"]))) == hash(VmConfig().replace(layers=installed(["c"])))


def test_other_code_is_another_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (module_with(tmp_path, monkeypatch, body) for body in ("vm.run('a')", "vm.run('b')"))
    assert first.key() != second.key()


def test_what_has_no_text_of_its_own_is_never_the_same_in_another_process() -> None:
    program = "from pytest_readonly_vm.config.prepared import code_of; print(code_of(object()).partition(':')[0])"
    texts = {subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout for _ in range(2)}
    assert len(texts) == 2


class Plain:
    def __init__(self, value: object) -> None:
        self.value = value

    @cached_property
    def twice(self) -> list[object]:
        return [self.value] * 2


class Slotted:
    __slots__ = ("__value", "unset")

    def __init__(self, value: object) -> None:
        self.__value = value


class Listed(list[object]):
    def __init__(self, value: object) -> None:
        super().__init__([value])

    __repr__ = object.__repr__


def around_nothing() -> None: ...


@dataclass(frozen=True)
class Fields:
    value: object
    then: object = around_nothing  # a function, so that its own text has a place in memory


def around(value: object) -> Plain:
    """What has itself in it."""
    one = Plain(value)
    one.value = {"itself": one, "value": value, "set": {Plain(one), Plain(value)}}
    return one


OF_THE_USERS: list[Callable[[object], object]] = [
    Plain,
    Slotted,
    Listed,
    Fields,
    around,
    lambda value: Plain(value).__init__,  # type: ignore[misc]
    lambda value: {Plain(value), "text"},
    lambda value: [one := Plain(1), two := Plain(2), one if value == 2 else two],
]


@pytest.mark.parametrize("make", OF_THE_USERS)
def test_what_an_argument_has_in_it_tells_it_from_others(make: Callable[[object], object]) -> None:
    assert installed(make(2)).key() == installed(make(2)).key()
    assert installed(make(2)).key() != installed(make(3)).key()
    assert not code_of(make(2)).count("only in process")


def test_what_is_worked_out_of_an_argument_is_no_part_of_it() -> None:
    one = Plain(2)
    before = code_of(one)
    assert one.twice
    assert code_of(one) == before


@pytest.mark.parametrize("make", [object, threading.Lock, lambda: Plain(threading.Lock()), lambda: chain(5_000)])
def test_what_cannot_be_told_is_itself_alone(make: Callable[[], object]) -> None:
    one, other = make(), make()
    assert code_of(one) == code_of(one) != code_of(other)
    text = code_of(one)
    assert "only in process" in text
    del one
    assert code_of(make()) != text, "another may have its place"


def chain(length: int) -> object:
    """So many things, each in the next."""
    one = Plain(None)
    for _ in range(length):
        one = Plain(one)
    return one


@pytest.mark.parametrize(
    ("given", "count"), [(installed, 1), ([installed, installed("vim")], 2), ((), 0), ([[installed], installed], 2)]
)
def test_layers_are_given_one_by_one_or_in_lists(given: object, count: int) -> None:
    assert len(VmConfig().replace(layers=given).layers) == count


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ("no-colon", "not of the form MODULE:NAME"),
        ("no_such_module:x", "cannot be had: No module named"),
        ("os:no_such_name", "cannot be had: module 'os' has no attribute"),
        ("os:path", "is no layer; put @pytest_readonly_vm.layer above"),
        (3, "3 is not a text"),
    ],
)
def test_what_is_no_layer_is_refused(given: object, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        VmConfig().replace(layers=given)


PREPARED = """
import json
import {helpers}
from pytest_readonly_vm import layer

PACKAGES = ["nginx"]
VERSION = 1
ran = []

class Options:
    def __init__(self, value):
        self.value = value
        self.same = {self}

def install(vm, name):
    fetch(vm, name)

def fetch(vm, name):
    vm.run(["apt-get", "install", name])

@layer
def one(vm, version=VERSION):
    ran.append(1)
    for name in PACKAGES:
        install(vm, name)
    {helpers}.tidy(vm)
    json.dumps([other, name])

@layer
def other(vm):
    one(vm)
"""
HELPERS = "def tidy(vm): vm.run('sync')\n"


def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str = PREPARED, helpers: str = HELPERS) -> Any:
    """A module with layers, that has a module beside it."""
    folder = tmp_path / hex(abs(hash((text, helpers))))
    folder.mkdir(exist_ok=True)
    name = f"helpers_{folder.name}"
    (folder / f"{name}.py").write_text(helpers)
    (folder / f"prepared_{folder.name}.py").write_text(
        text.replace("import {helpers}", f"import {name} as helpers").replace("{helpers}", "helpers")
    )
    monkeypatch.syspath_prepend(folder)
    return importlib.import_module(f"prepared_{folder.name}")


@pytest.mark.parametrize(
    "change",
    [
        ('["apt-get", "install", name]', '["apt-get", "install", "-y", name]'),
        ('["nginx"]', '["nginx", "vim"]'),
        ("VERSION = 1", "VERSION = 2"),
        ("'sync'", "'sync; true'"),
        ("    one(vm)\n", "    one(vm, 2)\n"),
    ],
    ids=["a function's function", "a list", "a default", "a module's function", "another layer"],
)
def test_what_a_layer_names_of_the_users_own_changes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: tuple[str, str]
) -> None:
    before = prepared(tmp_path, monkeypatch).one.key()
    after = prepared(tmp_path, monkeypatch, PREPARED.replace(*change), HELPERS.replace(*change)).one.key()
    assert before != after


def test_what_it_names_of_this_package_does_not() -> None:
    @layer
    def listening(vm: Any) -> None:
        vm.wait_for(PortListens(80))

    assert "PortListens(80)" in code_of(listening)
    assert "class PortListens" not in code_of(listening)


def test_what_it_does_to_what_it_names_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = prepared(tmp_path, monkeypatch)
    before = module.one.key()
    module.ran.append(1)
    assert module.one.key() == before
    module.VERSION = 2  # which the function's text does not name
    assert module.one.key() == before


def test_it_is_the_same_in_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = prepared(tmp_path, monkeypatch)
    given = "[{'a', 'b', 'c', 'd'}, m.other, m.Options({'a', 'b'})], a=m.other"
    program = f"import {module.__name__} as m; print(m.one({given}).key())"
    keys = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        keys.add(
            subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True).stdout
        )
    assert len(keys) == 1


def test_files_are_beside_the_function() -> None:
    @layer(files=["one", Path("/etc/two")])
    def several(vm: Any) -> None: ...

    @layer(files="one")
    def single(vm: Any) -> None: ...

    beside = str(Path(__file__).with_name("one"))
    assert several.files == (beside, "/etc/two")
    assert single("argument").files == (beside,)
    assert layer(single.function).key() != single.key()
