"""That a stopwatch gives each moment of its thread to one part, whatever happens in it."""

import threading
import time

import pytest

from pytest_readonly_vm.host.stopwatch import Part, Stopwatch

MOMENT = 0.02


def test_an_inner_part_is_none_of_the_outer() -> None:
    stopwatch = Stopwatch()
    began = time.perf_counter()
    with stopwatch.part(Part.STARTING):
        with stopwatch.part(Part.BOOTING):
            time.sleep(MOMENT)
        time.sleep(MOMENT)
        with stopwatch.part(Part.BOOTING):
            time.sleep(MOMENT)
    elapsed = time.perf_counter() - began
    taken = stopwatch.take()
    assert list(taken) == ["starting machines", "booting"]
    assert taken["starting machines"] >= MOMENT
    assert taken["booting"] >= 2 * MOMENT
    assert sum(taken.values()) <= elapsed
    assert {type(name) for name in taken} == {str}  # which xdist can send
    assert stopwatch.take() == {}


def test_an_error_ends_a_part() -> None:
    stopwatch = Stopwatch()
    with stopwatch.part(Part.STARTING):
        with pytest.raises(KeyboardInterrupt), stopwatch.part(Part.ROOM):
            raise KeyboardInterrupt
        time.sleep(MOMENT)
    taken = stopwatch.take()
    assert taken["starting machines"] >= MOMENT
    time.sleep(MOMENT)
    assert stopwatch.take() == {}


def test_other_threads_have_no_parts() -> None:
    stopwatch = Stopwatch()

    def work() -> None:
        with stopwatch.part(Part.BOOTING):
            pass

    with stopwatch.part(Part.STARTING):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert list(stopwatch.take()) == ["starting machines"]
