"""The history keeps the latest happenings, whichever machine they are of."""

import pytest

from pytest_readonly_vm.channels.history import History


def noted(*whats: object) -> History:
    history = History()
    for what in whats:
        history.note("wait", str(what))
    return history


def test_one_that_follows_begins_with_the_earlier() -> None:
    history = noted("new")
    history.follow(noted(1, 2))
    assert [one.what for one in history.entries()] == ["1", "2", "new"]


def test_what_goes_on_is_pending_until_it_ends_in_whatever_way() -> None:
    history = History()

    def fail() -> None:
        with history.noting("wait", "x") as entry:
            assert (entry.is_pending, entry.seconds) == (True, 0.0)
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    [entry] = history.entries()
    assert (entry.is_pending, entry.outcome) == (False, "no")
    assert entry.seconds > 0


def test_a_full_one_gives_up_its_oldest() -> None:
    history = noted("new", "newer")
    history.follow(noted(*range(5_000)))
    assert [one.what for one in history.entries()] == [*map(str, range(2, 5_000)), "new", "newer"]
    full = noted(*range(5_000))
    full.follow(noted("old"))
    assert len(full.entries()) == 5_000
    assert full.entries()[0].what == "0"
