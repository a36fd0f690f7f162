"""How tests are shared out: by hand-made numbers, as no machine has to run for that."""

import random
from dataclasses import replace

import pytest

from pytest_readonly_vm.plugin.distribution.balance import Share, Unit, shared_out


def units(**tests: tuple[int, int]) -> list[Unit]:
    """Tests of kinds, by their names: how many, and how long each takes. Those of ``alone`` want no machine."""
    return [
        Unit(f"{kind} {number}", None if kind == "alone" else kind, cost)
        for kind, (many, cost) in tests.items()
        for number in range(many)
    ]


def places_of(shares: list[Share], kind: str) -> int:
    return sum(kind in share.kinds for share in shares)


def test_kinds_that_fit_are_each_in_one_place() -> None:
    five = {f"k{number}": (12, 300) for number in range(5)}
    shares = shared_out(units(**five), dict.fromkeys(five, 2500), 3)
    assert [places_of(shares, kind) for kind in five] == [1] * 5
    assert sorted(len(share.kinds) for share in shares) == [1, 2, 2]


def test_one_that_is_longer_than_a_fair_share_is_in_as_few_as_that_takes() -> None:
    shares = shared_out(units(large=(100, 300), alone=(100, 300)), {"large": 1000}, 4)
    assert places_of(shares, "large") == 2
    assert max(share.cost for share in shares) <= 16_300


def test_it_is_not_where_making_its_template_again_takes_longer_than_is_gained() -> None:
    assert places_of(shared_out(units(kind=(10, 10)), {"kind": 10_000}, 8), "kind") == 1


def test_four_of_the_same_length_are_in_three_places_so_that_none_has_two_thirds_more() -> None:
    four = {f"k{number}": (100, 300) for number in range(4)}
    shares = shared_out(units(**four), dict.fromkeys(four, 100), 3)
    assert max(share.cost for share in shares) < 1.05 * sum(share.cost for share in shares) / 3


def test_tests_without_a_machine_fill_what_is_left() -> None:
    shares = shared_out(units(large=(10, 1000), alone=(200, 100)), {"large": 5000}, 2)
    assert abs(shares[0].cost - shares[1].cost) <= 100


@pytest.mark.parametrize("seed", range(50))
def test_every_test_is_in_one_place_in_whatever_order_they_come(seed: int) -> None:
    number = random.Random(seed)
    kinds = {f"k{kind}": (number.randrange(1, 30), number.randrange(1, 10**6)) for kind in range(number.randrange(6))}
    some = units(**kinds, alone=(number.randrange(20), number.randrange(1, 10**5)))
    templates = {kind: number.randrange(10**7) for kind in kinds}
    places = number.randrange(1, 12)
    shares = shared_out(some, templates, places)
    assert len(shares) == places
    assert sorted(unit.name for share in shares for unit in share.units) == sorted(unit.name for unit in some)
    for share in shares:
        assert share.cost == sum(unit.cost for unit in share.units) + sum(templates[kind] for kind in share.kinds)
    shuffled = number.sample(some, len(some))
    assert shared_out(shuffled, templates, places) == shares


@pytest.mark.parametrize("seed", [21, 45, 139])
def test_what_kinds_are_called_is_no_matter_as_their_images_are_elsewhere_on_other_computers(seed: int) -> None:
    number = random.Random(seed)
    kinds, costs = number.randint(3, 7), number.choice([(1,), (1, 2), (1, 1, 1, 5)])
    some = [Unit(f"{n}", f"k{number.randrange(kinds)}", number.choice(costs)) for n in range(number.randint(2, 40))]
    templates = {f"k{kind}": number.choice((0, 1, 10)) for kind in range(kinds)}
    places = number.randint(2, 8)
    elsewhere = dict(zip(templates, reversed(templates), strict=True))
    moved = [replace(unit, kind=elsewhere[str(unit.kind)]) for unit in some]
    there = shared_out(moved, {elsewhere[kind]: cost for kind, cost in templates.items()}, places)
    assert [{unit.name for unit in share.units} for share in there] == [
        {unit.name for unit in share.units} for share in shared_out(some, templates, places)
    ]
