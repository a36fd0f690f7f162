"""Health gates as somebody who runs pytest meets them: which tests fail, when, and what is said."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.accelerator import ACCEL
from tests.conftest import SMALL
from tests.forked import PLAIN
from tests.guests.tiny_linux import tiny_linux
from tests.qemu.waiting import GENEROUS
from tests.templates import templates

Run = Callable[..., pytest.RunResult]

TINY = """
    import pytest
    def fault(vm):
        vm.run("echo disk trouble >/sys/fs/ext4/vda/trigger_fs_error")
"""


@pytest.fixture
def run(pytester: pytest.Pytester) -> Run:
    """Run pytest in a process of its own on a tiny Linux."""
    guest = tiny_linux()
    files = (f"--vm-image={guest.disk}", f"--vm-kernel={guest.kernel}", f"--vm-initrd={guest.initrd}")
    options = (f"--vm-append={guest.append}", "--vm-memory=128M", f"--vm-accel={ACCEL}", f"--vm-cache={templates()}")
    patience = (f"--vm-boot-timeout={GENEROUS}", "--vm-budget=off")
    return lambda *more: pytester.runpytest_subprocess(*files, *options, *patience, *PLAIN, *more, timeout=280)


def test_a_test_that_passes_fails_if_its_guest_is_sick(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        TINY
        + """
    @pytest.fixture
    def prepared(readonly_vm):
        fault(readonly_vm)
        return readonly_vm

    def test_good(readonly_vm):
        readonly_vm.run("echo '<6>all is well' >/dev/kmsg")

    def test_sick(readonly_vm):
        fault(readonly_vm)

    def test_prepared(prepared): pass

    def test_second(readonly_vm_factory):
        readonly_vm_factory()
        fault(readonly_vm_factory(name="second"))

    def test_by_itself(readonly_vm):
        fault(readonly_vm)
        assert 0, "its own"

    def test_skipped(readonly_vm):
        fault(readonly_vm)
        pytest.skip("enough")

    def test_ended(readonly_vm):
        fault(readonly_vm)
        readonly_vm.close()

    @pytest.mark.vm(health=[])
    def test_off(readonly_vm): fault(readonly_vm)

    @pytest.mark.vm(health_allow=["EXT4-fs error .*disk trouble"])
    def test_allowed(readonly_vm): fault(readonly_vm)
    """
    )
    result = run("--vm-health=kernel,units,cores")
    result.assert_outcomes(passed=4, failed=4, skipped=1)
    sick = "the test passed, but the guest is not healthy: [[] *[]] kernel: EXT4-fs error (device vda): *disk trouble"
    result.stdout.fnmatch_lines(
        [
            f"test_sick: {sick}",
            "What test_sick has shown since the test got it:",
            "[[] *[]] kernel: EXT4-fs error (device vda): *disk trouble",
            "What is known and harmless: --vm-health-allow=REGEX, *",
            f"test_prepared: {sick}",
            f"test_second (second): {sick}",
            "*AssertionError: its own",
            "*Captured health gates of test_by_itself call*",
            "[[] *[]] kernel: EXT4-fs error (device vda): *disk trouble",
        ]
    )


def test_of_a_shared_machine_each_test_answers_for_what_is_new(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        TINY
        + """
    from pytest_readonly_vm import layer

    @layer
    def with_a_boot_id(vm):
        vm.boot_id()  # which is made when it is read: from here on all copies have the same

    pytestmark = pytest.mark.vm(layers=with_a_boot_id)

    def test_sick(readonly_vm): fault(readonly_vm)

    def test_good(readonly_vm): readonly_vm.run("sleep 2; echo later >/dev/kmsg")

    def test_set_back_and_sick(readonly_vm):
        readonly_vm.reset()
        readonly_vm.run("echo '<4>WARNING: CPU: 0 PID: 1 at net/core/dev.c:1 dev_watchdog' >/dev/kmsg")

    def test_set_back(readonly_vm): readonly_vm.reset()

    def test_checkpoint(readonly_vm):
        readonly_vm.checkpoint()
        readonly_vm.run("sleep 1; echo later >/dev/kmsg")

    def test_restored_and_sick(readonly_vm):
        readonly_vm.restore()
        fault(readonly_vm)

    def test_restored(readonly_vm): readonly_vm.restore()
    """
    )
    result = run("--vm-health=kernel", "--vm-scope=module", "-rA")
    result.assert_outcomes(passed=4, failed=3)
    result.stdout.fnmatch_lines([f"PASSED *::test_{name}" for name in ("good", "set_back", "checkpoint", "restored")])


def test_a_guest_that_cannot_be_looked_at_is_an_error_at_once(pytester: pytest.Pytester, run_on: Run) -> None:
    pytester.makepyfile("def test_it(readonly_vm): pass")
    result = run_on("hello", "--vm-channel=none", "--vm-health=kernel")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        [
            "test_it: the health gates cannot look into the guest: there is no channel to the guest, as channel=none "
            "says (health=kernel, from --vm-health)"
        ]
    )


def test_without_gates_nothing_is_loaded(pytester: pytest.Pytester, boot_sector: Callable[[str], Path]) -> None:
    pytester.makepyfile("""
        import sys
        def test_it(readonly_vm): pass
        def test_after(readonly_vm): assert "pytest_readonly_vm.evidence.health" not in sys.modules
    """)
    options = (f"--vm-image={boot_sector('hello')}", *SMALL, *PLAIN)
    result = pytester.run(sys.executable, "-m", "pytest", *options)  # which has imported nothing before
    result.assert_outcomes(passed=2)
