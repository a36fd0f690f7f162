"""What the terminal says: before, when something fails, and at the end; in one process and in several."""

import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.accelerator import ACCEL
from tests.conftest import SMALL
from tests.forked import PLAIN

Run = Callable[..., pytest.RunResult]

CHOSEN = {"tcg": "tcg (asked for by --vm-accel)", "kvm": "kvm (proved by running a guest)"}[ACCEL]


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["one process", "xdist"])
def test_header_and_summary_tell_with_what_the_run_ran(
    pytester: pytest.Pytester, run_on: Run, workers: tuple[str, ...]
) -> None:
    pytester.makepyfile("""
        import pytest
        @pytest.mark.parametrize("number", range(4))
        def test_it(readonly_vm, number): pass
    """)
    result = run_on("hello", "--vm-verify=hash", "--vm-start=cold", *workers)
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(
        [
            f"vm: QEMU * x86_64, {CHOSEN}",
            "vm: seal: read-only descriptors, *; verify: hash",
            "vm: base */hello.img (raw, from --vm-image)",
            "*- virtual machines -*",
            f"4 machines booted, each in * s (median; slowest * s), with {ACCEL}",
            "base hello.img unchanged after 4 tests (identity, size and times; SHA-256 at the end of the run)",
        ]
    )
    assert result.stdout.str().count("asked for by --vm-accel") == 1


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["one process", "xdist"])
def test_a_base_that_has_another_digest_is_not_called_unchanged(
    pytester: pytest.Pytester, boot_sector: Callable[[str], Path], workers: tuple[str, ...]
) -> None:
    shutil.copy(boot_sector("hello"), pytester.path / "own.img")
    pytester.makeconftest("""
        import pytest
        from pathlib import Path

        ran = []

        def pytest_runtest_teardown(item):
            ran.append(item)

        @pytest.hookimpl(tryfirst=True)
        def pytest_sessionfinish():
            if ran:
                content = Path("own.img").read_bytes()
                Path("own.img").write_bytes(content[:-1] + b"x")
    """)
    pytester.makepyfile("def test_it(readonly_vm): pass")
    result = pytester.runpytest_subprocess("--vm-image=own.img", *SMALL, *PLAIN, "--vm-verify=hash", *workers)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["BASE IMAGE CHANGED: *.img has the SHA-256 * and had * when it was opened"])
    result.stdout.no_fnmatch_line("base *unchanged*")


def test_a_failure_shows_the_users_line_but_not_the_plugins(pytester: pytest.Pytester, run_on: Run) -> None:
    pytester.makepyfile(
        test_a="""
        def helper(vm):
            vm.qmp.execute("no-such-command")
        def test_it(readonly_vm):
            helper(readonly_vm)
    """
    )
    result = run_on("hello")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            '>       vm.qmp.execute("no-such-command")',
            "E       *QmpError: no-such-command: The command no-such-command has not been found (CommandNotFound)",
            "FAILED *::test_it - QmpError: no-such-command: The command *",
        ]
    )
    assert "pytest_readonly_vm/" not in result.stdout.str()


def test_a_failed_boot_is_a_sentence_with_its_evidence_also_in_junit(
    pytester: pytest.Pytester, run_in_vain: Run
) -> None:
    pytester.makepyfile(test_a="def test_it(readonly_vm): pass")
    result = run_in_vain("hello", "--junit-xml=report.xml", ready="something else")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        [
            "*ERROR at setup of test_it*",
            "test_it: the guest was not ready within * s (boot_timeout, from --vm-boot-timeout): waited for the "
            "console to show 'something else'",
            "*- Evidence -*",
            "Last console lines:",
            "hello",
            "ERROR test_a.py::test_it - BootTimeout: the guest was not ready within *",
        ]
    )
    assert "qemu-system-x86_64" not in result.stdout.str().partition("ERROR at setup")[2]
    assert "Traceback" not in result.stdout.str()
    error = ElementTree.parse(pytester.path / "report.xml").getroot().find(".//error")
    assert error is not None
    assert "the guest was not ready within " in (error.get("message") or "")
    assert "hello" in (error.text or "")


def test_a_guest_that_resets_while_booting_is_told_from_a_slow_one(pytester: pytest.Pytester, run_on: Run) -> None:
    pytester.makepyfile("def test_it(readonly_vm): pass")
    result = run_on("triple_fault", "--vm-ready=console:never")
    result.stdout.fnmatch_lines(
        [
            "test_it: while booting, the guest was reset *; QEMU exited with status 0",
            "A reset while booting is a crash (a triple fault, a panic) or a reboot without end.",
            "Last console lines:",
            "hello",
        ]
    )


def test_a_silent_console_gets_a_hint(pytester: pytest.Pytester, run_on: Run, tmp_path: Path) -> None:
    blank = tmp_path / "blank.img"
    blank.write_bytes(bytes(1 << 20))
    pytester.makepyfile(f"import pytest\n@pytest.mark.vm(image={str(blank)!r})\ndef test_it(readonly_vm): pass")
    result = run_on("hello", "--vm-boot-timeout=1")
    result.stdout.fnmatch_lines(
        ["A Linux guest uses its serial console when *console=ttyS0*", "The console stayed silent."]
    )


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["one process", "xdist"])
def test_a_digest_that_differs_at_the_end_fails_the_run(
    pytester: pytest.Pytester, run_on: Run, boot_sector: Callable[[str], Path], workers: tuple[str, ...]
) -> None:
    """By a writer whom no time stamp betrays: it writes after the last test's comparison."""
    image = pytester.path / "mine.img"
    image.write_bytes(boot_sector("hello").read_bytes())
    pytester.makeconftest("""
        import pathlib, pytest
        @pytest.hookimpl(tryfirst=True)
        def pytest_sessionfinish(session):
            if hasattr(session.config, "workerinput") or not session.config.getoption("numprocesses", None):
                with open("mine.img", "r+b") as file:
                    file.seek(5000)
                    file.write(b"x")
    """)
    pytester.makepyfile(f"import pytest\n@pytest.mark.vm(image={str(image)!r})\ndef test_it(readonly_vm): pass")
    result = run_on("hello", "--vm-verify=hash", "--vm-start=cold", *workers)
    result.assert_outcomes(passed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["BASE IMAGE CHANGED: */mine.img has the SHA-256 * and had * when it was opened"])


def test_the_second_monitor_is_announced(pytester: pytest.Pytester, run_on: Run) -> None:
    pytester.makepyfile("def test_it(readonly_vm): assert readonly_vm.monitor_command")
    result = run_on("hello", "--vm-monitor")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["test_it: second monitor: qmp-shell -H */monitor"])


def test_what_two_threads_tell_at_once_are_two_lines(pytester: pytest.Pytester, run_on: Run) -> None:
    pytester.makepyfile("""
        import threading
        import time
        from concurrent.futures import ThreadPoolExecutor
        from pytest_readonly_vm.plugin.run import Run

        def test_it(request, monkeypatch):
            reporter = request.config.pluginmanager.get_plugin("terminalreporter")
            write = reporter.write_line

            def slowly(text):
                time.sleep(0.2)
                write(text)

            monkeypatch.setattr(reporter, "write_line", slowly)
            together = threading.Barrier(2, timeout=60)
            with ThreadPoolExecutor(2) as threads:
                for number in range(2):
                    threads.submit(lambda: (together.wait(), Run.of(request.config).tell("told by a thread")))
            print("captured")
    """)
    result = run_on("hello")
    result.assert_outcomes(passed=1)
    assert [line for line in result.outlines if "told" in line] == ["told by a thread"] * 2
    assert "captured" not in result.stdout.str()
