"""The model of computers that share out a suite, by cases that can be worked out by hand."""

from dataclasses import replace

import pytest

from benchmarks.farm import Farm, Group, limits, simulate
from benchmarks.simulate import main

ONE = Farm(workers=1, per_host=8, processors=8, start=2.0, store=1e9, link=1e9)
KINDS = {"a": 10.0, "b": 10.0}
GROUPS = [Group("a", 10, 30.0), Group("b", 10, 30.0)]


def test_one_worker_boots_each_kind_and_runs_its_tests() -> None:
    outcome = simulate(GROUPS, KINDS, ONE)
    assert round(outcome.seconds, 3) == 2 + 2 * (10 + 30)
    assert outcome.boots == 2


def test_two_halve_it_and_a_kind_on_both_boots_once_on_a_computer_and_twice_on_two() -> None:
    assert round(simulate(GROUPS, KINDS, replace(ONE, workers=2)).seconds, 3) == 42
    halves = [Group("a", 5, 15.0), Group("a", 5, 15.0)]
    assert simulate(halves, KINDS, replace(ONE, workers=2)).boots == 1
    assert simulate(halves, KINDS, replace(ONE, workers=2, per_host=1)).boots == 2


def test_processors_and_room_are_shared() -> None:
    farm = replace(ONE, workers=2, processors=1, test_demand=1.0)
    assert round(simulate(GROUPS, KINDS, farm).seconds, 3) == 2 * 2 + 2 * (10 + 30)
    assert round(simulate(GROUPS, KINDS, replace(ONE, workers=2, room=1)).seconds, 3) == 2 + 2 * (10 + 30)


def test_two_that_want_a_processor_at_the_same_moment_are_in_each_others_way() -> None:
    """Each half of the time, by chance: of five parts of the time both are at it in two, and one goes on."""
    farm = replace(ONE, workers=2, processors=1, start=0.0, test_demand=0.5)
    assert round(simulate(GROUPS, {}, farm).seconds, 3) == 30 / 0.8
    assert round(simulate(GROUPS, {}, replace(farm, processors=2)).seconds, 3) == 30


def test_what_is_fetched_goes_through_the_store_of_all() -> None:
    farm = replace(ONE, workers=2, per_host=1, is_warm=True, template_bytes=1e10)
    outcome = simulate(GROUPS, KINDS, farm)
    assert round(outcome.seconds, 3) == 2 + 20 + 30
    assert (outcome.boots, outcome.fetched) == (0, 2e10)
    assert next(limits(GROUPS, KINDS, farm))[0] == "template transfer"


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ("--tests=0", "argument --tests: invalid number from 1 on value: '0'"),
        ("--link=0", "argument --link: invalid positive number value: '0'"),
        ("--test=nan", "argument --test: invalid number from 0 on value: 'nan'"),
        ("--durations=/nowhere", "/nowhere is not there, or has no durations of tests"),
        ("--durations=/", "/: Is a directory"),
    ],
)
def test_what_nothing_can_be_said_of_is_one_sentence(
    given: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([given])
    assert capsys.readouterr().err.strip().endswith(complaint)
