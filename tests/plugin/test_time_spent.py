"""The line that says where the time of a run went: that its parts are there, and add up to what pytest says."""

import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from pytest_readonly_vm.host.stopwatch import Part
from pytest_readonly_vm.plugin.time_spent import _rounded
from tests.qemu.test_templates import SLOW

Run = Callable[..., pytest.RunResult]

SLOWLY = f"--vm-qemu-args={' '.join(SLOW)}"
BOOT = 0.6
"""Seconds that a boot takes at least with that."""

LOAD = 0.3
"""Seconds that everything else of the suite takes, which is there to be found in its part."""

SUITE = f"""
    import threading, time
    import pytest
    from pytest_readonly_vm import layer

    @layer
    def prepared(vm):
        time.sleep({LOAD})

    @pytest.fixture
    def slow():
        time.sleep({LOAD})
        yield
        time.sleep({LOAD})

    def test_without(slow):
        time.sleep({LOAD})

    @pytest.mark.parametrize("number", range(3))
    def test_alike(readonly_vm, number):
        time.sleep({LOAD})

    @pytest.mark.vm(layers=prepared)
    def test_layer(readonly_vm): pass

    def test_boot_in_a_test(readonly_vm_factory):
        readonly_vm_factory(memory="20M")
"""


@pytest.fixture
def run(run_on: Run, pytester: pytest.Pytester) -> Run:
    """As `run_on`; frozen guests are kept in a folder of the test's own."""
    return lambda kind, *arguments: run_on(kind, f"--vm-cache={pytester.path / 'templates'}", *arguments)


def parts_of(result: pytest.RunResult, *, workers: int = 0) -> dict[str, Decimal]:
    """The parts that are told of, once they have been found to add up to the time of the run."""
    [line] = [line for line in result.outlines if line.startswith("time ")]
    match = re.fullmatch(r"time ([\d.]+) s(?: of (\d+) workers?(?:, ([\d.]+) s each)?)?: (.*)", line)
    assert match is not None, line
    total = Decimal(match[1])
    elapsed = Decimal(match[3] or match[1])
    assert int(match[2] or 0) == workers
    assert total == elapsed * max(workers, 1)
    told = re.findall(r" in ([\d.]+)s", result.outlines[-1])
    # pytest looks at the clock a moment later, in the beginning and in the end; how much, is up to the computer.
    assert Decimal(told[-1]) / 2 < elapsed < Decimal(result.duration) + Decimal("0.05")
    parts = {name: Decimal(seconds) for name, seconds in re.findall(r"(\w[^,]*) ([\d.]+)(?:, |$)", match[4])}
    assert sum(parts.values()) == total, line
    assert all(parts.values()), line
    return parts


def test_the_parts_of_a_run_add_up_to_its_time(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(SUITE)
    result = run("hello", SLOWLY, "--vm-start=clone", "--vm-budget=off", "--vm-prefetch=1")
    result.assert_outcomes(passed=6)
    parts = parts_of(result)
    assert parts["booting"] >= 2 * BOOT
    assert parts["making layers"] >= LOAD
    assert parts["other fixtures"] >= 2 * LOAD
    assert parts["tests"] >= 4 * LOAD
    assert parts["starting machines"]
    *others, last = parts
    assert last == "everything else"
    assert sorted(others, key=lambda name: -parts[name]) == others
    # The next run has them all.
    parts = parts_of(run("hello", SLOWLY, "--vm-start=clone", "--vm-budget=off", "--vm-prefetch=1"))
    assert "booting" not in parts
    assert "making layers" not in parts
    assert parts["reading kept guests"]


def test_a_boot_that_only_a_thread_of_the_test_waits_for_is_time_of_the_test(
    pytester: pytest.Pytester, run: Run
) -> None:
    pytester.makepyfile("""
        from threading import Thread
        def test_it(readonly_vm_factory):
            thread = Thread(target=readonly_vm_factory)
            thread.start()
            thread.join()
    """)
    result = run("hello", SLOWLY, "--vm-start=cold")
    result.assert_outcomes(passed=1)
    parts = parts_of(result)
    assert "booting" not in parts
    assert parts["tests"] >= BOOT


def test_machines_that_fail_and_are_looked_at_have_parts_of_their_own(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(f"""
        import time
        def test_it(readonly_vm):
            time.sleep({LOAD})
            assert False
    """)
    result = run("hello", "--vm-start=cold", "--vm-verify=hash", "-q")
    result.assert_outcomes(failed=1)
    parts = parts_of(result)
    assert parts["saving evidence"]
    assert parts["tests"] >= LOAD


@pytest.mark.skipif(pytest.version_tuple < (9,), reason="pytest has no subtests of its own before 9")
def test_subtests_count_once(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(f"""
        import contextlib, time
        def test_it(readonly_vm, subtests):
            with contextlib.ExitStack() as stack:
                for _ in range(20):
                    stack.enter_context(subtests.test())
                time.sleep({LOAD})
    """)
    assert LOAD <= parts_of(run("hello", "--vm-start=cold"))["tests"] < 20 * LOAD


def test_tests_that_use_no_machine_have_no_such_line(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile("def test_it(): pass")
    result = run("hello")
    result.assert_outcomes(passed=1)
    assert not [line for line in result.outlines if line.startswith("time ")]


def test_tests_count_that_ran_before_there_was_a_machine(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(f"""
        import time
        def test_without(): time.sleep({LOAD})
        def test_late(request): request.getfixturevalue("readonly_vm")
    """)
    result = run("hello", "--vm-start=cold")
    result.assert_outcomes(passed=2)
    parts = parts_of(result)
    assert parts["tests"] >= LOAD
    assert parts["booting"]


def test_of_workers_there_is_the_time_of_all(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(SUITE)
    result = run("hello", SLOWLY, "--vm-start=clone", "-n", "2")
    result.assert_outcomes(passed=6)
    parts = parts_of(result, workers=2)
    assert parts["booting"] >= 2 * BOOT
    assert parts["making layers"] >= LOAD
    assert parts["other fixtures"] >= 2 * LOAD
    assert parts["tests"] >= 4 * LOAD
    assert parts["everything else (the workers' start and idleness)"]


def test_what_a_worker_did_before_it_died_is_counted_and_what_it_did_last_is_said_not_to_be(
    pytester: pytest.Pytester, run: Run
) -> None:
    pytester.makepyfile(f"""
        import os, signal, time
        import pytest
        @pytest.mark.parametrize("number", range(3))
        def test_it(readonly_vm, number):
            time.sleep({LOAD})
            if number == 1:
                os.kill(os.getpid(), signal.SIGKILL)
    """)
    result = run("hello", "--vm-start=cold", "-n", "1")
    result.assert_outcomes(passed=2, failed=1)
    parts = parts_of(result, workers=1)
    assert parts["tests"] >= 2 * LOAD
    assert parts["everything else (the workers' start and idleness and what 1 dead worker did last)"] >= LOAD


def test_the_test_that_was_interrupted_is_in_the_rest(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(f"""
        import time
        def test_it(readonly_vm):
            time.sleep({LOAD})
            raise KeyboardInterrupt
    """)
    result = run("hello", "--vm-start=cold")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    parts = parts_of(result)
    assert parts["booting"]
    assert parts["everything else (the test that was interrupted)"] >= LOAD


def test_tests_that_ran_beside_each_other_have_no_parts(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makeconftest("""
        def pytest_runtest_logreport(report):
            report.duration += 1000
    """)
    pytester.makepyfile("def test_it(readonly_vm): pass")
    result = run("hello", "--vm-start=cold")
    result.assert_outcomes(passed=1)
    assert not [line for line in result.outlines if line.startswith("time ")]


def test_every_part_is_explained() -> None:
    page = (Path(__file__).parents[2] / "docs/explanation/starts.md").read_text()
    assert [part.value for part in Part if f"| `{part.value}` |" not in page] == []


@pytest.mark.parametrize(
    ("parts", "rounded"),
    [
        ({"a": 0.26, "b": 0.26, "c": 0.48}, {"a": 0.3, "b": 0.2, "c": 0.5}),
        ({"a": 0.02, "b": 0.02, "c": 1.96}, {"c": 2.0}),
        ({"a": 0.0, "b": 1.0}, {"b": 1.0}),
        ({"a": 0.13, "b": 0.09, "rest": -0.02}, {"a": 0.1, "b": 0.1}),
    ],
)
def test_figures_are_rounded_so_that_they_add_up(parts: dict[str, float], rounded: dict[str, float]) -> None:
    assert _rounded(parts, 1) == rounded
