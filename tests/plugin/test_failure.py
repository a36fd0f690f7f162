"""What the terminal says of a failure: the cause at once, and all of it on one screen."""

from collections.abc import Callable
from typing import Literal

import pytest

from pytest_readonly_vm import WaitTimeout
from pytest_readonly_vm.plugin.failure import _put_below_headline
from tests.accelerator import ACCEL
from tests.forked import PLAIN
from tests.guests.debian import debian
from tests.templates import templates

Run = Callable[..., pytest.RunResult]

A_LONG_TIME = 1200

SCREEN = 30
"""Lines of a failure, its head and the place of its evidence included."""

SUITE = r"""
    import pytest

    def test_command(readonly_vm):
        readonly_vm.run("ls /nothing && echo ok")

    def test_result(readonly_vm):
        result = readonly_vm.run("echo started; cat /nothing", check=False)
        assert result.exit_code == 0

    def test_panic(readonly_vm):
        readonly_vm.run("echo c >/proc/sysrq-trigger")

    @pytest.mark.timeout(4, func_only=True)
    def test_timeout(readonly_vm):
        readonly_vm.run("sleep 60")

    def test_unit(readonly_vm):
        exec = "/bin/sh -c 'echo no configuration >&2; exit 3'"
        readonly_vm.write_text("/etc/systemd/system/shop.service", f"[Service]\nExecStart={exec}\n")
        readonly_vm.run("systemctl start shop; until systemctl is-failed shop; do sleep 0.1; done")
        readonly_vm.wait_for_port(8080, timeout=1)
"""

CAUSES = {
    "test_command": (
        "E       *CommandFailed: test_command: exit code 2 from: ls /nothing && echo ok",
        "E       stderr: ls: cannot access '/nothing': No such file or directory",
        "CommandFailed: ls: cannot access '/nothing': No such file *",
    ),
    "test_result": (
        "E       AssertionError: assert 1 == 0",
        "E        +  where 1 = CommandResult(exit_code=1, stderr='cat: /nothing: No such file or directory\\n', *",
        "assert 1 == 0 (exit code 1: cat: /nothing: No such file *",
    ),
    "test_panic": (
        "E       *GuestPanicked: test_panic: the guest's kernel panicked: sysrq triggered crash",
        "E       Its kernel said:",
        "GuestPanicked: sysrq triggered crash",
    ),
    "test_timeout": (
        "E       Failed: Timeout (>4.0s) from pytest-timeout.",
        "E       test_timeout: waiting * s for: sleep 60",
        "waiting * s for: sleep 60; *",
    ),
    "test_unit": (
        "E       *WaitTimeout: test_unit: waited 1 s for a listener on TCP port 8080",
        "E       shop.service failed (exit-code), last said: no configuration",
        "shop.service failed (exit-code), last said: no configuration; Wait*",
    ),
}
"""The first two lines of each error, and what the short summary says after the test's name."""


@pytest.mark.timeout(A_LONG_TIME)
def test_each_failure_names_its_cause_at_once_and_fits_on_a_screen(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("CI", raising=False)  # where the short summary is not cut
    pytester.makepyfile(test_it=SUITE)
    where = (f"--vm-image={debian()}", f"--vm-cache={templates()}", f"--vm-boot-timeout={A_LONG_TIME}")
    options = (f"--vm-accel={ACCEL}", "--vm-start=clone", *PLAIN)
    result = pytester.runpytest_subprocess(*where, *options, timeout=A_LONG_TIME)
    result.assert_outcomes(failed=5)
    lines = result.outlines
    for name, (first, second, summary) in CAUSES.items():
        begin = next(number for number, line in enumerate(lines) if line.startswith("_") and f" {name} " in line)
        end = next(number for number in range(begin + 1, len(lines)) if lines[number].startswith("test-results/")) + 1
        errors = [line for line in lines[begin:end] if line.startswith("E ")]
        pytest.LineMatcher(errors[:2]).fnmatch_lines([first, second], consecutive=True)
        assert end - begin <= SCREEN, lines[begin:end]
        result.stdout.fnmatch_lines([f"FAILED test_it.py::{name} - {summary}"])
    everything = result.stdout.str()
    assert "qemu-system" not in everything.partition("FAILURES")[2]
    assert everything.count("Kernel panic - not syncing") == 1
    result.stdout.fnmatch_lines(
        [
            "*- Command in test_result -*",
            "exit code 1 after * s from: echo started; cat /nothing",
            "stderr: cat: /nothing: No such file or directory",
            "stdout: started",
            "E       Its kernel said:",
            "E       * Comm: sh *",
        ]
    )


def test_a_shared_machines_console_is_that_of_the_test(pytester: pytest.Pytester, run_on: Run) -> None:
    pytester.makepyfile("""
        def test_first(readonly_vm):
            readonly_vm.console.send("first")
            readonly_vm.console.expect("first")

        def test_second(readonly_vm):
            readonly_vm.console.send("second")
            readonly_vm.console.expect("second")
            assert False

        def test_third(readonly_vm):
            assert False
    """)
    result = run_on("echo", "--vm-scope=module")
    result.assert_outcomes(passed=1, failed=2)
    sections = [number for number, line in enumerate(result.outlines) if "Captured serial console" in line]
    assert [result.outlines[number + 1] for number in sections] == ["second"]


def test_an_error_of_any_kind_is_told(pytester: pytest.Pytester, run_on: Run) -> None:
    pytester.makepyfile(
        test_it="""
        import unittest
        import pytest
        from pytest_readonly_vm import Change, Changes, CommandResult

        class Mute(Exception):
            def __str__(self):
                raise RuntimeError

        def test_mute(readonly_vm):
            raise Mute

        def test_much(readonly_vm):
            result = CommandResult("cat", 1, b"line\\n" * 20_000, b"", 0.1)
            readonly_vm.results.append(result.without_most())
            assert result.ok

        def test_changed(readonly_vm):
            made = (Change(f"/{folder}/{number:02}", "made") for folder in ("srv", "var") for number in range(30))
            readonly_vm.latest_changes = Changes(made, looked_at={"/": "outside"})
            assert not readonly_vm.latest_changes.outside("/var")

        class TestCase(unittest.TestCase):
            @pytest.fixture(autouse=True)
            def machine(self, readonly_vm):
                self.vm = readonly_vm

            def test_case(self):
                self.vm.console.expect("never", timeout=0.1)
    """
    )
    result = run_on("hello", "--vm-start=cold")
    result.assert_outcomes(failed=4)
    result.stdout.fnmatch_lines(
        [
            "E *test_it.Mute: <exception str() failed>",
            "*- Command in test_much -*",
            "Last 20 lines of stdout:",  # of how many is not known any more
            "E *assert not <30 made: /srv/00: made; /srv/01: made; *",
            "*- What has changed in test_changed -*",
            *(f"/srv/{number:02}: made" for number in range(30)),
            ">       self.vm.console.expect(*",
            "E *WaitTimeout: test_case: the console did not show 'never' within 0.1 s",
            "FAILED *::test_case - WaitTimeout: the console did not sho*",
        ]
    )
    assert "console.py:" not in result.stdout.str()


@pytest.mark.parametrize(("style", "margin"), [("long", 7), ("short", 3)])
def test_a_cause_stands_below_the_headline_as_pytest_would_write_it(
    style: Literal["long", "short"], margin: int
) -> None:
    with pytest.raises(WaitTimeout) as error:
        late()
    report = pytest.TestReport("a", ("a", 0, "a"), {}, "failed", error.getrepr(style=style), "call")
    assert _put_below_headline(report, ["x.service failed", "another"])
    indent = f"E{' ' * margin}"
    assert [line for line in report.longreprtext.splitlines() if line.startswith("E")] == [
        f"{indent}pytest_readonly_vm.WaitTimeout: late",
        f"{indent}x.service failed",
        f"{indent}another",
    ]


def late() -> None:
    raise WaitTimeout("late")
