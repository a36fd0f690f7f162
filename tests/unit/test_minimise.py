"""The smallest part that still has an effect is found."""

import itertools
from collections.abc import Sequence

from pytest_readonly_vm.disks.minimise import minimised


def test_whatever_few_are_to_blame_they_are_found() -> None:
    for size in range(1, 9):
        for blamed in range(min(size, 3) + 1):
            for culprits in itertools.combinations(range(size), blamed):
                wanted = set(culprits)
                assert set(minimised(range(size), wanted.issubset, most=10_000)) == wanted


def test_one_of_several_causes_is_enough() -> None:
    found = minimised(range(64), lambda part: 3 in part or {40, 41} <= set(part), most=1000)
    assert found in ([3], [40, 41])


def test_what_is_found_in_the_time_given_has_the_effect() -> None:
    for most in range(12):
        asked: list[Sequence[int]] = []

        def has(part: Sequence[int], asked: list[Sequence[int]] = asked) -> bool:
            asked.append(part)
            return {5, 17} <= set(part)

        assert {5, 17} <= set(minimised(range(20), has, most=most))
        assert len(asked) <= most
