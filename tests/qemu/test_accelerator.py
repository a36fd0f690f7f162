"""The suite's machines run under the accelerator that was asked for: by QEMU's word, and by the suite's own."""

from collections.abc import Callable

import pytest

from pytest_readonly_vm import VirtualMachine
from tests import accelerator
from tests.accelerator import ACCEL, Witness


def test_qemu_says_that_it_is_the_one_that_the_suite_asks_for(boot: Callable[..., VirtualMachine]) -> None:
    assert boot("hello").qmp.execute("query-kvm")["enabled"] is (ACCEL == "kvm")


def test_a_run_that_must_have_kvm_does_not_begin_without(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accelerator, "ACCEL", "kvm")
    monkeypatch.setattr("pytest_readonly_vm.host.accel._KVM", tmp_path_factory.mktemp("dev") / "kvm")
    with pytest.raises(pytest.UsageError, match=r"accel=kvm \(from READONLY_VM_TEST_ACCEL\) cannot be had: .*/kvm "):
        Witness().pytest_sessionstart()


def test_an_accelerator_that_the_suite_does_not_know_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator, "ACCEL", "hvf")
    with pytest.raises(pytest.UsageError, match="READONLY_VM_TEST_ACCEL: 'hvf' is neither kvm nor tcg"):
        Witness().pytest_sessionstart()


PROJECT = """
    import pytest
    from tests import accelerator

    class AfterAll(accelerator.Witness):
        def pytest_sessionstart(self):
            accelerator.ACCEL = {wanted!r}

        @pytest.hookimpl(tryfirst=True)
        def pytest_runtest_logreport(self, report):
            for start in vars(report).get("readonly_vm", {{}}).get("boots", ()):
                start["accelerator"] = {used!r}
            super().pytest_runtest_logreport(report)

    def pytest_configure(config):
        if not hasattr(config, "workerinput"):
            config.pluginmanager.register(AfterAll())
"""
"""A run that has not looked first whether it can have what is wanted, and whose machines say what they used."""

NOT_USED = "KVM was NOT used: tcg by 2 machines"
TITLE = "title=KVM was NOT used"


@pytest.mark.parametrize(
    ("wanted", "used", "workers", "status", "lines"),
    [
        ("kvm", "kvm (x)", (), pytest.ExitCode.OK, ["KVM was used: kvm by 2 machines"]),
        ("tcg", "tcg (x)", (), pytest.ExitCode.OK, [NOT_USED, f"::warning {TITLE}::tcg was asked for, *"]),
        ("kvm", "tcg (x)", ("-n", "1"), pytest.ExitCode.TESTS_FAILED, [NOT_USED, f"::error {TITLE}::kvm was *"]),
    ],
    ids=["kvm as wanted", "tcg as wanted", "tcg for kvm, in workers"],
)
def test_the_end_of_a_run_says_what_was_used_and_fails_where_it_was_to_be_kvm(
    pytester: pytest.Pytester,
    run_on: Callable[..., pytest.RunResult],
    monkeypatch: pytest.MonkeyPatch,
    wanted: str,
    used: str,
    workers: tuple[str, ...],
    status: pytest.ExitCode,
    lines: list[str],
) -> None:
    """Of which all tests are green; on a hosted runner, as an annotation."""
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    pytester.makeconftest(PROJECT.format(wanted=wanted, used=used))
    pytester.makepyfile("def test_a(readonly_vm): pass\ndef test_b(readonly_vm): pass")
    result = run_on("hello", "--vm-start=cold", *workers)
    result.assert_outcomes(passed=2)
    assert result.ret == status
    result.stdout.fnmatch_lines(["accelerator of the suite:*", *lines])
    assert ("::" in "".join(line for line in result.outlines if "KVM" in line)) == (len(lines) > 1)
