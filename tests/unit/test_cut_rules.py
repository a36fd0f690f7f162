"""What a disk may hold when its power is cut: all small logs, against the rules as sentences."""

import itertools
import os
import tempfile
from collections.abc import Iterator

import pytest

from pytest_readonly_vm.disks.cut_rules import CutRules, Survivors
from pytest_readonly_vm.disks.write_log import FLUSH, FUA, WriteLog
from tests.unit.write_logs import ONE, entry, superblock

SECTORS = 64
KINDS = {
    "w": entry(1, 1, data=ONE),
    "W": entry(8, 4, data=ONE * 4),
    "u": entry(2, 2, flags=FUA, data=ONE * 2),
    "F": entry(flags=FLUSH),
}
"""A write, one of four sectors, one that is there at once, a flush."""


def log_of(kinds: str) -> WriteLog:
    with tempfile.TemporaryFile() as file:
        file.write(superblock() + b"".join(KINDS[kind] for kind in kinds))
        file.flush()
        return WriteLog(os.dup(file.fileno()), SECTORS)


def small_logs() -> Iterator[str]:
    for length in range(5):
        yield from map("".join, itertools.product("wWuF", repeat=length))


def present(log: WriteLog, state: Survivors) -> dict[int, int | None]:
    """Which writes are on the disk, and of torn ones how many sectors."""
    return {entry: None for entry in range(state.sure) if log.is_write(entry)} | dict(state.kept(log))


def check_is_legal(kinds: str, state: Survivors, there: dict[int, int | None]) -> None:
    flushed = kinds.rfind("F", 0, state.moment) + 1
    for number, kind in enumerate(kinds):
        if kind == "F" or number >= state.moment:
            assert number not in there
        elif number < flushed or kind == "u":
            assert there[number] is None
        elif there.get(number) is not None:
            assert kind == "W"
            assert there[number] in (1, 2, 3)


def test_each_state_of_each_small_log_is_legal_and_found_again_by_its_name() -> None:
    for kinds in small_logs():
        log = log_of(kinds)
        rules = CutRules(log)
        for at in ("flush", "write", "random"):
            names = [*rules.names(at, limit=8, seed=3, torn=True)]
            assert len(set(names)) == len(names)
            for name in names:
                state = rules.state(name)
                there = present(log, state)
                check_is_legal(kinds, state, there)
                explicit = rules.state(rules.name(Survivors(state.moment, rules.sure(state.moment), state.lost)))
                assert present(log, explicit) == there, (kinds, name)
        os.close(log.descriptor)


def test_flush_leaves_what_it_has_made_sure_of_until_the_next_is_done() -> None:
    log = log_of("wFwWFuw")
    rules = CutRules(log)
    states = [rules.state(f"flush:{number}") for number in range(3)]
    assert [state.moment for state in states] == [1, 4, 7]
    assert [set(present(log, state)) for state in states] == [set(), {0}, {0, 2, 3, 5}]


def test_write_leaves_all_up_to_it_and_torn_a_part_of_it() -> None:
    log = log_of("wFWFw")
    rules = CutRules(log)
    assert [present(log, rules.state(f"write:{number}")) for number in range(4)] == [
        {},
        {0: None},
        {0: None, 2: None},
        {0: None, 2: None, 4: None},
    ]
    torn = rules.state("write:2/3")
    assert (torn.moment, present(log, torn)) == (3, {0: None, 2: 3})


def test_random_states_are_all_that_can_be() -> None:
    log = log_of("FwWw")
    rules = CutRules(log)
    found = {tuple(sorted(present(log, rules.state(f"random:1:{n}")).items())) for n in range(1, 400)}
    possible = {
        tuple((number, None) for number in kept)
        for size in range(4)
        for kept in itertools.combinations((1, 2, 3), size)
    }
    assert found == possible


def test_guests_marks_are_no_writes() -> None:
    rules = CutRules(log_of("wwFw"), {1, 3})
    assert (rules.writes, rules.unsure(4)) == ([0], [])


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("flush:3", "2 flushes"),
        ("write:6", "5 writes"),
        ("write:2/4", "4 sectors"),
        ("write:0/1", "no write"),
        ("write:4/1", "was there when it was done"),
        ("at:8", "7 entries"),
        ("at:7-0", "no writes that can be lost"),
        ("at:7-5", "no writes that can be lost"),
        ("at:7-6/2", "1 sectors"),
        ("at:7-6..9", "no writes"),
        ("at:7-6...9", "says nothing"),
        ("flush:-1", "none of the forms"),
        ("flush:١", "none of the forms"),
        ("", "none of the forms"),
    ],
)
def test_there_is_no_such_state(name: str, why: str) -> None:
    rules = CutRules(log_of("wFWwFuw"))
    with pytest.raises(ValueError, match=why):
        rules.state(name)


def test_moments_at_equal_distances() -> None:
    rules = CutRules(log_of("wF" * 20))
    assert [*rules.names("flush", limit=5, seed=0, torn=False)] == [f"flush:{n}" for n in (0, 5, 10, 15, 20)]
    assert [*rules.names("flush", limit=1, seed=0, torn=False)] == ["flush:20"]
    assert len([*rules.names("write", limit=99, seed=0, torn=False)]) == 21
    with pytest.raises(ValueError, match="none of flush"):
        rules.names("now", limit=None, seed=0, torn=False)
    with pytest.raises(ValueError, match="less than one"):
        rules.names("flush", limit=0, seed=0, torn=False)
