"""The chronicle keeps the latest happenings, whichever machine they are of."""

from pytest_readonly_vm.channels.history import Chronicle


def noted(*whats: object) -> Chronicle:
    chronicle = Chronicle()
    for what in whats:
        chronicle.note("wait", str(what))
    return chronicle


def test_one_that_follows_begins_with_the_earlier() -> None:
    chronicle = noted("new")
    chronicle.follow(noted(1, 2))
    assert [one.what for one in chronicle.entries()] == ["1", "2", "new"]


def test_a_full_one_gives_up_its_oldest() -> None:
    chronicle = noted("new", "newer")
    chronicle.follow(noted(*range(5_000)))
    assert [one.what for one in chronicle.entries()] == [*map(str, range(2, 5_000)), "new", "newer"]
    full = noted(*range(5_000))
    full.follow(noted("old"))
    assert len(full.entries()) == 5_000
    assert full.entries()[0].what == "0"
