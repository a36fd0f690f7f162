"""No test with a machine can hang a run: one that sets no timeout has a default one, in which no boot counts."""

from collections.abc import Callable

import pytest

from tests.conftest import PLAIN
from tests.guests.tiny_linux import tiny_linux

Run = Callable[..., pytest.RunResult]

HANGS = """
    import time

    def test_hangs(readonly_vm):
        time.sleep(600)

    def test_next(readonly_vm):
        assert readonly_vm.qmp.execute("query-status")["running"]
"""


def test_one_that_hangs_is_ended_and_the_next_goes_on(pytester: pytest.Pytester, run_on: Run) -> None:
    pytester.makepyfile(HANGS)
    result = run_on("hello", "--vm-test-timeout=2")
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(
        [
            ">       time.sleep(600)",
            "E       Failed: Timeout (>2.0s) from pytest-timeout.",
            "The test has no timeout of its own, so it may take 2 s, boots apart (test_timeout, from "
            "--vm-test-timeout: 2 s)*",
        ]
    )


def test_one_that_hangs_in_a_wait_for_the_guest(pytester: pytest.Pytester, run_on: Run) -> None:
    pytester.makepyfile("""
        def test_hangs(readonly_vm):
            readonly_vm.console.expect("never", timeout=600)

        def test_next(readonly_vm):
            pass
    """)
    result = run_on("hello", "--vm-test-timeout=2")
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["E       Failed: Timeout (>*"])


def test_evidence_has_the_command_that_hangs(pytester: pytest.Pytester) -> None:
    guest = tiny_linux()
    pytester.makepyfile("""
        def test_hangs(readonly_vm):
            readonly_vm.run("sleep 12345")
    """)
    result = pytester.runpytest_subprocess(
        f"--vm-image={guest.disk}", f"--vm-kernel={guest.kernel}", f"--vm-initrd={guest.initrd}",
        f"--vm-append={guest.append}", "--vm-memory=256M", "--vm-accel=tcg", "--vm-start=cold",
        "--vm-timeout-factor=1", "--vm-test-timeout=3", *PLAIN, timeout=120,
    )  # fmt: skip
    result.assert_outcomes(failed=1)
    [folder] = (pytester.path / "test-results").iterdir()
    assert "sleep 12345" in (folder / "processes.txt").read_text()
    assert "failed in:  timeout" in (folder / "overview.txt").read_text()


def test_the_thread_method_ends_the_run_and_leaves_nothing(
    pytester: pytest.Pytester, run_on: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = pytester.mkdir("temporary")
    monkeypatch.setenv("TMPDIR", str(temporary))
    pytester.makepyfile(HANGS)
    result = run_on("hello", "--vm-test-timeout=2", "--timeout-method=thread", "--vm-tmpdir=temporary")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*::test_hangs: The test has no timeout of its own*", "*Timeout*"])
    assert [path for path in temporary.rglob("*") if path.is_file() and path.name != ".lock"] == []
    assert (pytester.path / "test-results").is_dir()


def test_no_boot_counts(pytester: pytest.Pytester, run_on: Run) -> None:
    pytester.makepyfile("""
        import time

        def slowly(vm):
            time.sleep(3)

        def test_it(readonly_vm_factory):
            for _ in range(2):
                readonly_vm_factory(ready=slowly)
            time.sleep(0.5)
    """)
    run_on("hello", "--vm-test-timeout=2").assert_outcomes(passed=1)


SIDE_BY_SIDE = """
    import threading, time
    from concurrent.futures import ThreadPoolExecutor

    together = threading.Barrier(2, timeout=60)

    def slowly(vm):
        together.wait()  # which only machines that boot at the same time get past
        time.sleep(3)

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
    result = run_on("hello", "--vm-test-timeout=2", f"--timeout-method={method}", "--vm-start=cold", "-v")
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
            time.sleep(1.5)
    """)
    run_on("hello", "--vm-test-timeout=1", "-p", "no:threadexception").assert_outcomes(passed=2)


@pytest.mark.parametrize(
    ("options", "explained"),
    [
        (("--vm-timeout-factor=auto",), "it may take 4 s, * 1 s, times 4 as guests are slow here"),
        (("--vm-timeout-factor=2.5",), "it may take 2.5 s, * 1 s, times 2.5 as"),
    ],
)
def test_slow_computers_have_more(
    pytester: pytest.Pytester, run_on: Run, options: tuple[str, ...], explained: str
) -> None:
    pytester.makepyfile(HANGS)
    result = run_on("hello", "--vm-test-timeout=1", *options)
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines([f"*{explained}*"])


@pytest.mark.parametrize("own", ["marker", "option", "ini", "environment"])
def test_one_of_the_users_own_stays(
    pytester: pytest.Pytester, run_on: Run, monkeypatch: pytest.MonkeyPatch, own: str
) -> None:
    marker = "@pytest.mark.timeout(60)" if own == "marker" else ""
    pytester.makepyfile(f"""
        import time, pytest

        {marker}
        def test_it(readonly_vm):
            time.sleep(2)
    """)
    if own == "ini":
        pytester.makeini("[pytest]\ntimeout = 60")
    if own == "environment":
        monkeypatch.setenv("PYTEST_TIMEOUT", "60")
    options = ["--timeout=60"] if own == "option" else []
    run_on("hello", "--vm-test-timeout=1", *options).assert_outcomes(passed=1)


def test_tests_without_a_machine_have_none(pytester: pytest.Pytester, run_on: Run) -> None:
    pytester.makepyfile("""
        import time

        def test_it():
            time.sleep(2)
    """)
    run_on("hello", "--vm-test-timeout=1").assert_outcomes(passed=1)


def test_without_pytest_timeout_there_is_none(pytester: pytest.Pytester, run_on: Run) -> None:
    pytester.makepyfile("""
        import time

        def test_it(readonly_vm):
            time.sleep(2)
    """)
    run_on("hello", "--vm-test-timeout=1", "-p", "no:timeout").assert_outcomes(passed=1)


def test_a_marker_on_the_test_changes_its_default(pytester: pytest.Pytester, run_on: Run) -> None:
    pytester.makepyfile("""
        import time, pytest

        @pytest.mark.vm(test_timeout=30)
        def test_it(readonly_vm):
            time.sleep(2)
    """)
    run_on("hello", "--vm-test-timeout=1").assert_outcomes(passed=1)
