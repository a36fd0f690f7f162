"""Machines that are started ahead, beside each other and by several processes; and what is left of them."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_readonly_vm.start.cache import TemplateCache
from tests.conftest import SMALL
from tests.forked import PLAIN
from tests.mount_namespace import own_mounts
from tests.plugin.test_starts import SLOWLY, lines_of_starts
from tests.qemu.inner_run import InnerRun
from tests.qemu.waiting import GENEROUS, LIMITS

Run = Callable[..., pytest.RunResult]

EMULATORS = """
    import os, time
    from pathlib import Path

    def pids():
        "The machines that this process has at the moment."
        found = set()
        for entry in Path("/proc").iterdir():
            try:
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1] if entry.name.isdecimal() else ""
                if parent == str(os.getpid()) and b"qemu-system" in (entry / "cmdline").read_bytes():
                    found.add(int(entry.name))
            except OSError:
                pass
        return found

    def emulators():
        return len(pids())

    def wait_for(number):
        deadline = time.monotonic() + 60
        while emulators() != number:
            assert time.monotonic() < deadline, f"{emulators()} machines, not {number}"
            time.sleep(0.01)
"""


@pytest.fixture
def run(run_on: Run, pytester: pytest.Pytester) -> Run:
    """As `run_on`; frozen guests are kept in a folder of the test's own."""
    return lambda kind, *arguments: run_on(kind, f"--vm-cache={pytester.path / 'templates'}", *arguments)


@pytest.mark.parametrize("ahead", [0, 1, 2])
def test_the_next_machines_are_started_while_a_test_runs(pytester: pytest.Pytester, run: Run, ahead: int) -> None:
    pytester.makepyfile(
        emulators=EMULATORS,
        test_it=f"""
            import pytest
            from emulators import emulators, pids, wait_for
            ahead, before = {ahead}, set()
            @pytest.mark.parametrize("number", range(4))
            def test_it(readonly_vm, number):
                if number:
                    assert (readonly_vm.pid in before) == (ahead > 0)
                wait_for(1 + min(ahead, 3 - number))
                assert readonly_vm.name == f"test_it[{{number}}]"
                before.update(pids())
            def test_last():
                assert emulators() == 0
        """,
    )
    result = run("hello", "--vm-start=clone", "--vm-budget=off", f"--vm-prefetch={ahead}")
    result.assert_outcomes(passed=5)
    assert lines_of_starts(result) == ["1 machine booted", "4 machines cloned"]


def test_a_worker_starts_none_for_tests_that_others_may_get(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile("""
        import pytest
        from pytest_readonly_vm.plugin.run import Run
        @pytest.mark.parametrize("number", range(4))
        def test_it(request, readonly_vm, number):
            ahead = [name for _, name in Run.of(request.config).lookahead.expected()]
            assert ahead == ([f"test_it[{number + 1}]"] if number < 3 else [])
    """)
    run("hello", "-n", "1", "--vm-start=clone", "--vm-prefetch=3").assert_outcomes(passed=4)


def test_one_that_is_there_too_early_is_not_used(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        emulators=EMULATORS,
        test_it="""
            from pathlib import Path
            import pytest
            from emulators import pids, wait_for
            from pytest_readonly_vm import layer
            content, before = Path(__file__).with_name("content"), set()
            content.write_text("first")

            @layer(files="content")
            def typed(vm):
                vm.console.send(content.read_text())
                vm.console.expect(content.read_text())

            @pytest.mark.vm(layers=typed)
            @pytest.mark.parametrize("number", range(3))
            def test_it(readonly_vm, number):
                assert readonly_vm.console.text.endswith(content.read_text())
                assert readonly_vm.pid not in before or number == 2
                wait_for(1 + (number < 2))
                before.update(pids())
                if number == 0:
                    content.write_text("other")
        """,
    )
    result = run("echo", "--vm-start=clone", "--vm-budget=off", "--vm-prefetch=1")
    result.assert_outcomes(passed=3)


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    return folder


@pytest.fixture
def begin(pytester: pytest.Pytester, boot_sector: Callable[[str], Path], temporary: Path) -> Callable[..., InnerRun]:
    """Begin a run on clones of the guest `hello`, with the next one always on its way."""

    def begin(*arguments: str) -> InnerRun:
        pytester.makepyfile(emulators=EMULATORS)
        # Without a budget, for machines of others would be a reason to start none before its time.
        options = [
            f"--vm-cache={pytester.path / 'templates'}",
            "--vm-start=clone",
            "--vm-prefetch=1",
            "--vm-budget=off",
        ]
        image = f"--vm-image={boot_sector('hello')}"
        return InnerRun(pytester.path, image, *SMALL, *options, *arguments, temporary=temporary)

    return begin


def test_a_wrong_guess_leaves_nothing(
    pytester: pytest.Pytester, begin: Callable[..., InnerRun], temporary: Path
) -> None:
    pytester.makepyfile("""
        import pytest
        from emulators import wait_for
        @pytest.fixture
        def vm_memory(request): return "20M" if request.node.name == "test_two" else "16M"
        def test_one(readonly_vm): wait_for(2)
        def test_two(readonly_vm):
            assert readonly_vm.config.memory == 20 << 20
            wait_for(2)
        @pytest.fixture
        def skipped(): pytest.skip()
        def test_three(skipped, readonly_vm): pass
    """)
    with begin() as guessing:
        assert guessing.wait() == pytest.ExitCode.OK, guessing.output
        guessing.leaves_no_process()
        assert "2 passed, 1 skipped" in guessing.output
    assert list(temporary.glob("pytest-readonly-vm-*/*")) == []


def test_a_look_ahead_fails_no_test_that_wants_no_machine(
    pytester: pytest.Pytester, begin: Callable[..., InnerRun], boot_sector: Callable[[str], Path]
) -> None:
    (pytester.path / "base.img").write_bytes(boot_sector("hello").read_bytes())
    pytester.makepyfile("""
        import os
        import pytest
        from emulators import wait_for
        @pytest.fixture
        def vm_image(): return "base.img"
        def test_culprit(readonly_vm):
            wait_for(2)
            os.utime("base.img")
        def test_next(readonly_vm): pass
        def test_innocent(): pass
        def test_last(readonly_vm): pass
    """)
    with begin("-rpEf") as run:
        assert run.wait() == pytest.ExitCode.TESTS_FAILED, run.output
        assert "2 passed, 3 errors" in run.output
        assert "PASSED test_a_look_ahead_fails_no_test_that_wants_no_machine.py::test_innocent" in run.output


@pytest.mark.parametrize("is_killed", [False, True], ids=["control c", "SIGKILL"])
def test_an_end_in_between_leaves_nothing_of_a_machine_and_of_the_next(
    pytester: pytest.Pytester, begin: Callable[..., InnerRun], temporary: Path, is_killed: bool
) -> None:
    pytester.makepyfile("""
        import pytest
        from pathlib import Path
        from emulators import wait_for
        @pytest.mark.parametrize("number", range(9))
        def test_it(readonly_vm, number):
            wait_for(2)
            if number == 1:
                Path("both").touch()
                readonly_vm.console.expect("never", timeout=600)
    """)
    with begin() as interrupted:
        interrupted.reaches("both")
        if is_killed:
            interrupted.send(signal.SIGKILL)
            interrupted.wait()
        else:
            interrupted.press_control_c()
            assert interrupted.wait() == pytest.ExitCode.INTERRUPTED, interrupted.output
        interrupted.leaves_no_process()
        assert "INTERNALERROR" not in interrupted.output
    assert is_killed or list(temporary.glob("pytest-readonly-vm-*/*")) == []
    assert len(list((pytester.path / "templates").iterdir())) == 1


def test_a_run_on_several_workers_boots_one_guest_and_the_next_run_none(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile("""
        import pytest
        @pytest.mark.parametrize("number", range(6))
        def test_it(readonly_vm, number): pass
    """)
    for starts in (["1 machine booted", "6 machines cloned"], ["6 machines cloned"]):
        result = run("hello", SLOWLY, "-n", "2", "--dist=load")
        result.assert_outcomes(passed=6)
        assert lines_of_starts(result) == starts


def test_runs_that_share_a_small_budget_wait_for_each_other_and_say_so(
    pytester: pytest.Pytester, boot_sector: Callable[[str], Path]
) -> None:
    pytester.makepyfile(
        test_one="""
            import time
            from pathlib import Path
            def test_it(readonly_vm):
                Path("has").touch()
                deadline = time.monotonic() + 60
                while "waiting for 16 MiB and 1 CPU" not in Path("other.out").read_text():
                    assert time.monotonic() < deadline
                    time.sleep(0.01)
        """,
        test_other="def test_it(readonly_vm): pass",
    )
    options = [
        f"--vm-image={boot_sector('hello')}",
        *SMALL,
        "--vm-budget=16M,1",
        "--vm-no-cache",
        *PLAIN,
    ]
    # A folder in /dev/shm is where all runs on this computer meet: these two have one of their own.
    script = """
        mount -t tmpfs own /dev/shm || exit
        touch other.out
        "$@" test_one.py >one.out & one=$!
        while kill -0 $one && [ ! -e has ]; do sleep 0.01; done
        "$@" test_other.py >other.out; other=$?
        wait $one && exit $other
    """
    command = [*own_mounts(), "sh", "-c", script, "sh"]
    done = subprocess.run([*command, sys.executable, "-m", "pytest", *options], timeout=2 * GENEROUS, check=False)
    outputs = [(pytester.path / f"{name}.out").read_text() for name in ("one", "other")]
    assert done.returncode == 0, outputs
    assert "test_it: waiting for 16 MiB and 1 CPU: 16 of 16 MiB" in outputs[1]
    assert "waiting" not in outputs[0]
    assert re.search(r"^time .* waiting for room \d", outputs[1], re.MULTILINE)


STANDS_STILL = """
    def test_it(readonly_vm):
        assert readonly_vm.console.text
"""


def test_a_worker_does_not_wait_without_end_for_a_template_and_says_for_whom(
    pytester: pytest.Pytester, run: Run
) -> None:
    """The process that makes it is at a breakpoint, as this one might be."""
    pytester.makepyfile(STANDS_STILL)
    run("hello", "--vm-start=clone").assert_outcomes(passed=1)
    cache = TemplateCache(pytester.path / "templates", limit=1 << 30)
    [entry] = cache.entries()
    cache.remove(entry.key)
    with cache.lock(entry.key, on_wait=pytest.fail, patience=60):
        for limit in LIMITS:  # within which it also boots
            result = run("hello", "--vm-start=clone", f"--vm-boot-timeout={limit}", "-n", "1")
            if result.parseoutcomes() == {"passed": 1}:
                break
    result.assert_outcomes(passed=1)
    me = f"process {os.getpid()}"
    result.stderr.re_match_lines(
        [
            rf"\[gw0\] waiting for {me}, which has been making the frozen guest {entry.key[:12]} for \d+ s",
            rf"\[gw0\] {me} has been at it for \d+ s: going on without the frozen guest {entry.key[:12]}",
        ]
    )
    result.stdout.re_match_lines([r"time .* waiting for other processes \d+"])
    assert cache.entries() == []


KINDS = """
    import pytest
    from emulators import wait_for

    @pytest.mark.vm(memory="17M")
    def test_one(readonly_vm): wait_for(2)
    @pytest.mark.skip
    @pytest.mark.vm(memory="18M")
    def test_skipped(readonly_vm): pass
    @pytest.mark.vm(memory="20M", {settings})
    def test_other(readonly_vm): pass
"""


# A worker knows but the test that comes next, which here is to be the one of the other kind.
@pytest.mark.parametrize("arguments", [(), ("-n1", "-knot skipped")], ids=["one process", "a worker"])
def test_the_guest_of_the_next_kind_boots_while_the_tests_of_the_one_before_run(
    pytester: pytest.Pytester, begin: Callable[..., InnerRun], arguments: tuple[str, ...]
) -> None:
    pytester.makepyfile(KINDS.format(settings=""))
    with begin(*arguments) as looking:
        assert looking.wait() == pytest.ExitCode.OK, looking.output
        assert "2 passed" in looking.output
        assert "2 machines booted" in looking.output
        assert "2 machines cloned" in looking.output


def test_a_boot_that_nobody_waits_for_any_more_ends_with_the_run(
    pytester: pytest.Pytester, begin: Callable[..., InnerRun], temporary: Path
) -> None:
    never = KINDS.format(settings='ready="console:never", boot_timeout=3600')
    pytester.makepyfile(never.replace("wait_for(2)", "wait_for(2); assert 0"))
    with begin("-x") as stopped:
        assert stopped.wait() == pytest.ExitCode.TESTS_FAILED, stopped.output
        stopped.leaves_no_process()
    assert list(temporary.glob("pytest-readonly-vm-*/*")) == []
