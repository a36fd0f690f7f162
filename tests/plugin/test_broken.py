"""Once a machine that tests share has come to its end, or a kind does not boot, later tests fail at once, in a line."""

from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., pytest.RunResult]


def booted(pytester: pytest.Pytester) -> list[Path]:
    """What is left of each machine that did not become ready."""
    return list(pytester.path.glob("test-results/**/console.txt"))


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


def test_it_does_not_matter_what_says_that_a_machine_is_shared(pytester: pytest.Pytester, run_on: Run) -> None:
    pytester.makepyfile("""
        import pytest

        pytestmark = pytest.mark.vm(scope="module")

        def test_one(readonly_vm):
            readonly_vm.console.send("k")
            readonly_vm.console.expect("never", timeout=600)

        def test_two(readonly_vm):
            pass
    """)
    result = run_on("obeys")
    result.assert_outcomes(failed=1, errors=1)
    result.stdout.fnmatch_lines(
        ["the module's machine cannot be used since *::test_one: *: the guest's kernel panicked*"]
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
    result = run_on("hello", "--vm-ready=console:never", "--vm-boot-timeout=1.5")
    assert len(booted(pytester)) == 1
    result.assert_outcomes(errors=5)
    line = "the module's machine cannot be used since *::test_it?0?: *: the guest was not ready within 1.5 s *"
    result.stdout.fnmatch_lines(["*the guest was not ready within 1.5 s*", *([line] * 4)])


def test_a_kind_that_does_not_boot_is_tried_twice(pytester: pytest.Pytester, run_on: Run) -> None:
    pytester.makepyfile("""
        import pytest

        @pytest.mark.parametrize("number", range(6))
        def test_it(readonly_vm, number):
            pass

        @pytest.mark.vm(ready="console:hello", boot_timeout=60)
        def test_another_kind(readonly_vm):
            pass
    """)
    result = run_on("hello", "--vm-ready=console:never", "--vm-boot-timeout=1.5")
    assert len(booted(pytester)) == 2
    result.assert_outcomes(errors=6, passed=1)
    line = (
        "such a machine does not boot, so it is not tried again: *::test_it?0?: *the guest was not ready within 1.5 s*"
    )
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


LAYERS = """
    import pytest
    from pytest_readonly_vm import layer
    from pathlib import Path

    def note(what):
        with Path("made").open("a") as file:
            file.write(what)

    @layer
    def sound(vm):
        note("s")

    @layer
    def failing(vm):
        note("f")
        assert False, "no such package"

    @layer
    def above(vm):
        note("a")
"""


@pytest.mark.parametrize("start", ["cold", "clone"])
def test_a_layer_that_fails_is_tried_twice_also_below_others(
    pytester: pytest.Pytester, run_on: Run, start: str
) -> None:
    pytester.makepyfile(
        LAYERS
        + """
    @pytest.mark.vm(layers=[sound, failing])
    @pytest.mark.parametrize("number", range(3))
    def test_it(readonly_vm, number): pass

    @pytest.mark.vm(layers=[sound, failing, above])
    def test_above(readonly_vm): pass

    @pytest.mark.vm(layers=[sound])
    def test_below(readonly_vm): pass

    @pytest.mark.vm(layers=[failing])
    def test_upon_another(readonly_vm): pass
    """
    )
    result = run_on("hello", f"--vm-start={start}", "--vm-no-cache")
    result.assert_outcomes(errors=5, passed=1)
    line = "the layer failing fails, so it is not tried again: *::test_it?0?: AssertionError: no such package*"
    result.stdout.fnmatch_lines(["*no such package*", "*ERROR at setup of test_it?2?*", line, line])
    assert (pytester.path / "made").read_text() == ("sfsfsf" if start == "cold" else "sfff")


def test_a_layer_that_cannot_be_frozen_is_made_no_more_often_than_it_is_needed(
    pytester: pytest.Pytester, run_on: Run
) -> None:
    pytester.makepyfile(
        LAYERS
        + """
    @layer
    def plugged(vm):
        note("p")
        vm.qmp.execute("device_add", driver="nvme", serial="1", id="blocks")

    @pytest.mark.vm(layers=[sound, plugged, above])
    @pytest.mark.parametrize("number", range(2))
    def test_it(readonly_vm, number):
        devices = readonly_vm.qmp.execute("qom-list", path="/machine/peripheral")
        assert "blocks" in [device["name"] for device in devices]
    """
    )
    slow = ("--vm-prefetch=0", "--vm-qemu-args=-boot menu=on,splash-time=600")
    result = run_on("hello", "--vm-start=auto", "--vm-no-cache", *slow)
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["2 not cloned: State blocked by non-migratable device*"])
    assert (pytester.path / "made").read_text() == "spaspa"
    result = run_on("hello", "--vm-start=clone", "--vm-no-cache")
    result.assert_outcomes(errors=2)
    assert (pytester.path / "made").read_text() == "spaspa" + "sp"
