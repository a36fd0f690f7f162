"""An error is shown at the line of the test that met it, without what our own code and its libraries did below."""

from collections.abc import Callable

import pytest

Run = Callable[..., pytest.RunResult]

LINES = {
    'readonly_vm.console.expect("(")': "re.error: missing ), unterminated subpattern at position 0",
    'readonly_vm.wait_for_log("(")': "re.error: missing ), unterminated subpattern at position 0",
    'readonly_vm.screen.wait_for_text("(")': "re.error: missing ), unterminated subpattern at position 0",
    'readonly_vm.write_text("/x", "\\udcff")': "UnicodeEncodeError: 'utf-8' codec can't encode *",
    'readonly_vm.push("/nope/x", "/x")': "pytest_readonly_vm.TransferError: /nope/x: No such file *, on the host",
    'readonly_vm.screen.screenshot("/nope/x")': "pytest_readonly_vm.VmError: *: /nope/x cannot be written: No such *",
    'readonly_vm.ssh_config("/nope/x")': "pytest_readonly_vm.VmError: *: /nope/x cannot be written: No such file *",
    'readonly_vm.export("/nope/x")': "pytest_readonly_vm.VmError: *: /nope/x cannot be made: No such file *",
}
"""What a test may do wrong, and what it is told."""


def test_so_is_one_that_has_led_to_an_error_of_the_tests_own(pytester: pytest.Pytester, run_on: Run) -> None:
    pytester.makepyfile("""
        import pytest

        def prepare(vm):
            try:
                vm.qmp.execute("no-such-command")
            except Exception as error:
                raise RuntimeError("could not set up") from error

        def test_it(readonly_vm):
            prepare(readonly_vm)
    """)
    result = run_on("hello")
    result.stdout.fnmatch_lines([">           vm.qmp.execute(*", "*direct cause*", "E *RuntimeError: could not set up"])
    assert "pytest_readonly_vm/" not in result.stdout.str()


def test_a_wrong_argument_is_told_at_the_line_of_the_test(pytester: pytest.Pytester, run_on: Run) -> None:
    tests = [f"def test_{number}(readonly_vm_module):\n    {line}" for number, line in enumerate(LINES)]
    pytester.makepyfile("\n".join(tests).replace("    readonly_vm.", "    readonly_vm_module."))
    result = run_on("hello")
    result.assert_outcomes(failed=len(LINES))
    for line, said in LINES.items():
        shown = line.replace("readonly_vm.", "readonly_vm_module.", 1)
        result.stdout.fnmatch_lines([f">       {shown.replace('[', '[[]')}", f"E       {said}"])
    assert "pytest_readonly_vm/" not in result.stdout.str()
    assert "During handling" not in result.stdout.str()
    assert "direct cause" not in result.stdout.str()
