"""What is made lazily is made once, whatever threads ask for it, and nobody waits for what somebody else wants."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from pytest_readonly_vm.host.once import OncePerKey


def test_threads_that_ask_at_the_same_moment_get_the_same_thing() -> None:
    things: OncePerKey[str, object] = OncePerKey()
    together = threading.Barrier(8)
    made = []

    def make() -> object:
        made.append(object())
        with pytest.raises(threading.BrokenBarrierError):
            late.wait(0.2)  # would be passed if a second one came
        return made[-1]

    late = threading.Barrier(2)

    def ask(_: int) -> object:
        together.wait(10)
        return things.get("it", make)

    with ThreadPoolExecutor(8) as threads:
        got = set(threads.map(ask, range(8)))
    assert got == set(made)
    assert len(made) == 1
    assert things.made() == {"it": made[0]}


def test_what_takes_long_holds_up_nobody_who_wants_another() -> None:
    things: OncePerKey[str, str] = OncePerKey()
    other_is_there = threading.Event()

    def slow() -> str:
        assert other_is_there.wait(10)
        return "slow"

    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(things.get, "slow", slow)
        assert things.get("quick", lambda: "quick") == "quick"
        other_is_there.set()
        assert waiting.result(10) == "slow"


def test_what_failed_is_tried_again_for_who_asks_next() -> None:
    things: OncePerKey[None, int] = OncePerKey()
    with pytest.raises(ZeroDivisionError):
        things.get(None, lambda: 1 // 0)
    assert things.get(None, lambda: 1) == 1
    assert things.get(None, lambda: 1 // 0) == 1
