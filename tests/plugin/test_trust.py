"""Once a machine that tests share has come to its end, or a kind does not boot, later tests fail at once, in a line."""

import time
from collections.abc import Callable

import pytest

Run = Callable[..., pytest.RunResult]


def test_after_a_panic_the_others_of_the_module_fail_at_once(pytester: pytest.Pytester, run_on: Run) -> None:
    pytester.makepyfile(
        test_a="""
        def test_one(readonly_vm_module):
            readonly_vm_module.console.send("k")
            readonly_vm_module.console.expect("never", timeout=600)

        def test_two(readonly_vm_module):
            pass

        def test_three(readonly_vm_module):
            pass

        def test_own(readonly_vm):
            pass
        """,
        test_b="def test_it(readonly_vm_module): pass",
    )
    result = run_on("obeys", "-v")
    result.assert_outcomes(failed=1, errors=2, passed=2)
    since = "the module's machine cannot be used since test_a.py::test_one: *: the guest's kernel panicked: told to"
    result.stdout.fnmatch_lines(
        [
            "*ERROR at setup of test_two*",
            since,
            "*ERROR at setup of test_three*",
            since,
        ]
    )


def test_a_machine_that_is_reset_is_trusted_again(pytester: pytest.Pytester, run_on: Run) -> None:
    pytester.makepyfile("""
        import pytest
        from pytest_readonly_vm import GuestPanicked

        def test_one(readonly_vm_module):
            readonly_vm_module.console.send("k")
            with pytest.raises(GuestPanicked):
                readonly_vm_module.console.expect("never")
            readonly_vm_module.reset()

        def test_two(readonly_vm_module):
            assert readonly_vm_module.trouble is None
    """)
    run_on("obeys").assert_outcomes(passed=2)


def test_so_is_one_that_is_reset_for_each_test(pytester: pytest.Pytester, run_on: Run) -> None:
    pytester.makepyfile("""
        def test_one(readonly_vm_module):
            readonly_vm_module.console.send("k")
            readonly_vm_module.console.expect("never", timeout=600)

        def test_two(readonly_vm_module):
            assert readonly_vm_module.trouble is None
    """)
    run_on("obeys", "--vm-reset=each-test").assert_outcomes(failed=1, passed=1)


def test_a_shared_machine_that_does_not_boot_is_waited_for_once(pytester: pytest.Pytester, run_on: Run) -> None:
    pytester.makepyfile("""
        import pytest

        @pytest.mark.parametrize("number", range(5))
        def test_it(readonly_vm_module, number):
            pass
    """)
    started = time.monotonic()
    result = run_on("hello", "--vm-ready=console:never", "--vm-boot-timeout=4")
    assert time.monotonic() - started < 12
    result.assert_outcomes(errors=5)
    line = "the module's machine cannot be used since *::test_it?0?: *: the guest was not ready within 4 s *"
    result.stdout.fnmatch_lines(["*the guest was not ready within 4 s*", *([line] * 4)])


def test_a_kind_that_does_not_boot_is_tried_twice(pytester: pytest.Pytester, run_on: Run) -> None:
    pytester.makepyfile("""
        import pytest

        @pytest.mark.parametrize("number", range(6))
        def test_it(readonly_vm, number):
            pass

        @pytest.mark.vm(ready="console:hello")
        def test_another_kind(readonly_vm):
            pass
    """)
    started = time.monotonic()
    result = run_on("hello", "--vm-ready=console:never", "--vm-boot-timeout=3")
    assert time.monotonic() - started < 14
    result.assert_outcomes(errors=6, passed=1)
    line = "such a machine does not boot, so it is not tried again: *::test_it?0?: *the guest was not ready within 3 s*"
    result.stdout.fnmatch_lines(["*was not ready*", "*was not ready*", *([line] * 4)])


def test_each_image_of_a_matrix_is_trusted_by_itself(
    pytester: pytest.Pytester, run_on: Run, boot_sector: Callable[[str], object]
) -> None:
    pytester.makepyfile("""
        def test_one(readonly_vm_module, vm_image):
            if "obeys" in str(vm_image):
                readonly_vm_module.console.send("k")
                readonly_vm_module.console.expect("never", timeout=600)

        def test_two(readonly_vm_module):
            pass
    """)
    result = run_on("obeys", f"--vm-image={boot_sector('hello')}")
    result.assert_outcomes(failed=1, errors=1, passed=2)
