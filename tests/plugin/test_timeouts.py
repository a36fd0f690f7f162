"""No test with a machine can hang a run: one that sets no timeout has a default one, in which no boot counts."""

import json
from collections.abc import Callable

import pytest

Run = Callable[..., pytest.RunResult]

HANGS = """
    import time

    def test_hangs(readonly_vm):
        time.sleep(600)

    def test_next(readonly_vm):
        assert readonly_vm.qmp.execute("query-status")["running"]
"""


def test_one_that_hangs_is_ended_and_the_next_goes_on(pytester: pytest.Pytester, run_on: Run) -> None:
    pytester.makepyfile(
        test_a=HANGS
        + """
    def test_waits(readonly_vm):
        readonly_vm.console.expect("never", timeout=600)

    def test_last(readonly_vm): pass
    """
    )
    result = run_on("hello", "--vm-test-timeout=1")
    result.assert_outcomes(failed=2, passed=2)
    result.stdout.fnmatch_lines(
        [
            ">       time.sleep(600)",
            "E       Failed: Timeout (>*s) from pytest-timeout.",
            "The test has no timeout of its own, so it may take 1 s, boots apart (test_timeout, from "
            "--vm-test-timeout: 1 s)*",
            "*_ test_waits _*",
            "E       Failed: Timeout (>*",
            "E       test_waits: waiting * s for: console: never",
            "FAILED *::test_waits - waiting * s for: console: never; *",
        ]
    )
    # Its evidence is from before the end of the wait, and does not tell it as one that has ended.
    [timeline] = (pytester.path / "test-results").glob("*test_waits*/timeline.jsonl")
    entries = [json.loads(line) for line in timeline.read_text().splitlines()]
    [pending] = [entry for entry in entries if "seconds" not in entry]
    assert pending | {"time": ""} == {"time": "", "state": "pending", "kind": "wait", "what": "console: never"}


def test_of_threads_the_tests_own_are_shown(pytester: pytest.Pytester, run_on: Run) -> None:
    pytester.makeconftest("import pytest_timeout; vars(pytest_timeout).pop('PYTEST_FAILURE_MESSAGE')")  # new in 2.4
    pytester.makepyfile("""
        import threading, time

        def test_it(readonly_vm):
            done = threading.Event()
            theirs = threading.Thread(target=done.wait, name="of the test")
            theirs.start()
            try:
                time.sleep(600)
            finally:
                done.set()
    """)
    result = run_on("hello", "--vm-test-timeout=1")
    result.stdout.fnmatch_lines(["E *Failed: Timeout (>*s) from pytest-timeout."])
    assert [line.strip("~ ") for line in result.outlines if "Stack of" in line] == ["Stack of of the test"]


def test_the_thread_method_ends_the_run_and_leaves_nothing(
    pytester: pytest.Pytester, run_on: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = pytester.mkdir("temporary")
    monkeypatch.setenv("TMPDIR", str(temporary))
    pytester.makepyfile(HANGS)
    result = run_on("hello", "--vm-test-timeout=1", "--timeout-method=thread", "--vm-tmpdir=temporary")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*::test_hangs: The test has no timeout of its own*", "*Timeout*"])
    assert [path for path in temporary.rglob("*") if path.is_file() and path.name != ".lock"] == []
    assert (pytester.path / "test-results").is_dir()


def test_no_boot_counts(pytester: pytest.Pytester, run_on: Run) -> None:
    pytester.makepyfile("""
        import time

        def slowly(vm):
            time.sleep(0.7)

        def test_it(readonly_vm_factory):
            for _ in range(2):
                readonly_vm_factory(ready=slowly)
            time.sleep(0.1)
    """)
    run_on("hello", "--vm-test-timeout=1").assert_outcomes(passed=1)


SIDE_BY_SIDE = """
    import threading, time
    from concurrent.futures import ThreadPoolExecutor

    together = threading.Barrier(2, timeout=60)

    def slowly(vm):
        together.wait()  # which only machines that boot at the same time get past
        time.sleep(1.5)

    def test_both(readonly_vm_factory):
        with ThreadPoolExecutor(2) as threads:
            first, second = threads.map(lambda size: readonly_vm_factory(memory=size, ready=slowly), ("32M", "48M"))
        assert first.qmp.execute("query-status")["running"] and second.qmp.execute("query-status")["running"]
        assert first.name != second.name

    def test_hangs_afterwards(readonly_vm_factory):
        with ThreadPoolExecutor(1) as thread:
            thread.submit(readonly_vm_factory).result()
        time.sleep(600)
"""


@pytest.mark.parametrize("method", ["signal", "thread"])
def test_machines_boot_side_by_side_from_threads_and_count_as_little(
    pytester: pytest.Pytester, run_on: Run, method: str
) -> None:
    pytester.makepyfile(SIDE_BY_SIDE)
    result = run_on("hello", "--vm-test-timeout=1", f"--timeout-method={method}", "--vm-start=cold", "-v")
    result.stdout.fnmatch_lines(["*::test_both PASSED*", "*Timeout*"])
    assert result.ret == 1


def test_a_thread_that_is_late_does_not_time_the_next_test(pytester: pytest.Pytester, run_on: Run) -> None:
    pytester.makepyfile("""
        import threading, time

        ready = threading.Event()
        late = []

        def test_forgets(readonly_vm_factory):
            booting = threading.Event()

            def wait(vm):
                booting.set()
                assert ready.wait(60)

            late.append(threading.Thread(target=readonly_vm_factory, kwargs={"ready": wait}))
            late[0].start()
            assert booting.wait(60)

        def test_without_a_machine():
            ready.set()
            late[0].join()
            time.sleep(0.8)
    """)
    run_on("hello", "--vm-test-timeout=0.5", "-p", "no:threadexception").assert_outcomes(passed=2)


@pytest.mark.parametrize(
    ("options", "explained"),
    [
        (("--vm-accel=tcg", "--vm-timeout-factor=auto"), "it may take 2 s, * 0.5 s, times 4 as guests are slow here"),
        (("--vm-timeout-factor=3",), "it may take 1.5 s, * 0.5 s, times 3 as"),
    ],
)
def test_slow_computers_have_more(
    pytester: pytest.Pytester, run_on: Run, options: tuple[str, ...], explained: str
) -> None:
    pytester.makepyfile(HANGS)
    result = run_on("hello", "--vm-test-timeout=0.5", *options)
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines([f"*{explained}*"])


def test_what_has_another_or_needs_none_is_left_alone(pytester: pytest.Pytester, run_on: Run) -> None:
    pytester.makepyfile("""
        import time, pytest

        @pytest.mark.timeout(60)
        def test_with_a_timeout_of_its_own(readonly_vm):
            time.sleep(0.8)

        @pytest.mark.vm(test_timeout=30)
        def test_with_another_default(readonly_vm):
            time.sleep(0.8)

        def test_without_a_machine():
            time.sleep(0.8)
    """)
    run_on("hello", "--vm-test-timeout=0.5").assert_outcomes(passed=3)


LONG = """
    import time

    def test_it(readonly_vm):
        time.sleep(0.8)
"""


@pytest.mark.parametrize("own", ["option", "ini", "environment"])
def test_one_of_the_users_own_stays(
    pytester: pytest.Pytester, run_on: Run, monkeypatch: pytest.MonkeyPatch, own: str
) -> None:
    pytester.makepyfile(LONG)
    if own == "ini":
        pytester.makeini("[pytest]\ntimeout = 60")
    if own == "environment":
        monkeypatch.setenv("PYTEST_TIMEOUT", "60")
    options = ["--timeout=60"] if own == "option" else []
    run_on("hello", "--vm-test-timeout=0.5", *options).assert_outcomes(passed=1)


def test_without_pytest_timeout_there_is_none(pytester: pytest.Pytester, run_on: Run) -> None:
    pytester.makepyfile(LONG)
    run_on("hello", "--vm-test-timeout=0.5", "-p", "no:timeout").assert_outcomes(passed=1)
