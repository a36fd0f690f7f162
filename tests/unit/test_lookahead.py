"""Which machines are started ahead, by what the tests before have told."""

from types import SimpleNamespace
from typing import Any

from pytest_readonly_vm import VmConfig
from pytest_readonly_vm.plugin.lookahead import Lookahead

CONFIG = VmConfig().replace(prefetch="1")


def item(name: str, *fixtures: str) -> Any:
    return SimpleNamespace(name=name, fixturenames=fixtures, iter_markers=lambda name: [], config=None)


def test_a_test_is_expected_to_want_what_those_like_it_had() -> None:
    lookahead = Lookahead()
    lookahead.ran(item("first", "readonly_vm"), CONFIG)
    lookahead.go_on_to(item("next", "readonly_vm"))
    assert lookahead.expected() == [(CONFIG, "next")]


def test_one_that_asked_while_it_ran_tells_nothing_of_those_that_want_no_machine() -> None:
    lookahead = Lookahead()
    lookahead.ran(item("asks by getfixturevalue", "request"), CONFIG)
    lookahead.go_on_to(item("without a machine"))
    assert lookahead.expected() == []
