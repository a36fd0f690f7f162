"""What has changed is told in words, in bounds, and can be asked for by place and by path."""

import pytest

from pytest_readonly_vm import Change, Changes, FileState, VmError

OLD = FileState("file", 0o644, 0, 0, 120, 1)
NEW = FileState("file", 0o600, 70000, 7, 140, 2)


def changes(*found: Change, remark: str = "") -> Changes:
    return Changes(found, looked_at={"/": "outside"}, remark=remark)


SOME = changes(
    Change("/srv/new", "made", (), None, NEW),
    Change("/etc/motd", "changed", ("content", "mode", "owner", "links"), OLD, NEW),
    Change("/srvother", "removed", (), FileState("directory", 0o755, 0, 0, 4096, 2), None),
    Change("/srv/touched", "touched", (), OLD, OLD),
)


def test_each_is_a_line_in_the_order_of_the_paths() -> None:
    assert str(SOME).splitlines() == [
        "/etc/motd: changed: content (120 → 140 bytes), mode 0644 → 0600, owner 0:0 → 70000:7, links 1 → 2",
        "/srv/new: made",
        "/srvother: removed (directory)",
    ]
    assert (SOME.made, SOME.changed, SOME.removed) == (("/srv/new",), ("/etc/motd",), ("/srvother",))
    assert [change.path for change in SOME.touched] == ["/srv/touched"]
    assert str(changes(remark="said so")) == "no changes\n(said so)"


def test_they_are_true_if_there_is_something_and_asked_for_by_path() -> None:
    assert SOME
    assert not changes()
    assert not changes(Change("/srv/touched", "touched", (), OLD, OLD))
    assert SOME["/etc/motd"].aspects == ("content", "mode", "owner", "links")
    asked: list[object] = ["/etc/motd", "/etc", SOME[0]]
    assert [one in SOME for one in asked] == [True, False, True]
    with pytest.raises(KeyError, match="/etc has not changed"):
        SOME["/etc"]


def test_a_place_has_what_is_below_it_and_itself() -> None:
    assert [change.path for change in SOME.inside("/srv")] == ["/srv/new"]
    assert [change.path for change in SOME.inside("/srv/").touched] == ["/srv/touched"]
    assert [change.path for change in SOME.outside("/srv", "/etc/motd")] == ["/srvother"]
    assert not SOME.outside("/")
    assert SOME.outside() == SOME
    with pytest.raises(VmError, match="'srv' is no absolute path"):
        SOME.outside("srv")


def test_few_words_are_as_many_as_pytest_shows() -> None:
    assert repr(changes()) == "<no changes>"
    assert repr(SOME.inside("/srv")) == "<1 made: /srv/new: made>"
    many = changes(*(Change(f"/srv/{number}", "made", (), None, NEW) for number in range(1000)))
    assert repr(many).startswith("<1000 made: /srv/0: made; /srv/1: made; ")
    assert len(repr(many)) <= 240
    assert str(many).endswith("\n… and 960 more")


def test_a_name_is_shown_as_it_can_be_seen() -> None:
    odd = changes(Change("/a\nb\x1b[31m\udcff", "made", (), None, NEW))
    assert str(odd) == "/a\\nb\ufffd: made"
