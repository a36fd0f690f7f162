"""Ways in which machines come to be, as somebody who runs pytest meets them: settings, summary, reset, layers."""

from collections.abc import Callable

import pytest

from tests.conftest import SMALL
from tests.guests.tiny_linux import tiny_linux
from tests.plugin.test_page import data_of
from tests.qemu.test_templates import SLOW
from tests.templates import templates

Run = Callable[..., pytest.RunResult]

SLOWLY = f"--vm-qemu-args={' '.join(SLOW)}"

TWO = """
    import pytest
    @pytest.mark.parametrize("number", range(2))
    def test_it(readonly_vm, number): pass
"""

PREPARED = """
    from pytest_readonly_vm import layer

    @layer
    def typed(vm, text="typed"):
        vm.console.send(text)
        vm.console.expect(text)

    @layer
    def more(vm):
        vm.console.send("more")
        vm.console.expect("more")

    plain = 1
"""
"""Layers for the guest `echo`."""


@pytest.fixture
def run(run_on: Run, pytester: pytest.Pytester) -> Run:
    """As `run_on`; frozen guests are kept in a folder of the test's own."""
    return lambda kind, *arguments: run_on(kind, f"--vm-cache={pytester.path / 'templates'}", *arguments)


def lines_of_starts(result: pytest.RunResult) -> list[str]:
    """How many machines came to be in which way, and why not in a better one."""
    words = (" booted", " cloned", " not cloned: ")
    found = [line for line in result.outlines if line[:1].isdigit() and any(word in line for word in words)]
    return [line.partition(" in ")[0].partition(", each")[0] if ": " not in line[:20] else line for line in found]


@pytest.mark.parametrize(
    ("options", "starts"),
    [
        (["--vm-start=cold"], ["2 machines booted"]),
        (["--vm-start=clone"], ["1 machine booted", "2 machines cloned"]),
        ([SLOWLY, "--vm-prefetch=0", "--vm-no-cache"], ["1 machine booted", "2 machines cloned"]),
    ],
    ids=["cold", "clone", "default"],
)
def test_the_summary_tells_how_machines_came_to_be(
    pytester: pytest.Pytester, run: Run, options: list[str], starts: list[str]
) -> None:
    pytester.makepyfile(TWO)
    result = run("hello", *options)
    result.assert_outcomes(passed=2)
    assert lines_of_starts(result) == starts


def test_the_summary_tells_why_machines_were_not_cloned(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(TWO)
    result = run("hello", SLOWLY, "--vm-disk-interface=nvme")
    result.assert_outcomes(passed=2)
    booted, reason = lines_of_starts(result)
    assert booted == "2 machines booted"
    assert reason.startswith("2 not cloned: State blocked by non-migratable device")


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        (
            "--vm-start=clones",
            "--vm-start: start: 'clones' is not one of auto, cold, clone (did you mean 'clone'?)",
        ),
        ("--vm-start=revert", "--vm-start: start: 'revert' is not one of auto, cold, clone"),
        ("--vm-prefetch=many", "--vm-prefetch: prefetch: 'many' is neither a whole number nor auto"),
        ("--vm-budget=1G,none", "--vm-budget: budget: 'none' is not a whole number of at least 1"),
        ("--vm-layers=typed", "--vm-layers: layers: 'typed' is not of the form MODULE:NAME"),
        ("--vm-layers=nowhere:typed", "--vm-layers: layers: 'nowhere:typed' cannot be had: No module named 'nowhere'"),
        ("--vm-layers=prepared:other", "--vm-layers: layers: 'prepared:other' cannot be had: *no attribute 'other'*"),
        ("--vm-layers=broken:typed", "--vm-layers: layers: 'broken:typed' cannot be had: *'Vm' is not defined*"),
        (
            "--vm-layers=prepared:plain",
            "--vm-layers: layers: 'prepared:plain' is no layer; put @*layer above the function",
        ),
    ],
)
def test_a_wrong_value_is_one_sentence(pytester: pytest.Pytester, run: Run, option: str, complaint: str) -> None:
    pytester.makepyfile(TWO, prepared=PREPARED, broken="Vm.layer")
    result = run("hello", option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {complaint.replace('[', '[[]')}"])
    assert "Traceback" not in f"{result.stdout}{result.stderr}"


def test_a_start_that_is_impossible_is_one_sentence(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile("def test_it(readonly_vm): pass")
    result = run("hello", "--vm-start=clone", "--vm-disk-interface=nvme")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["--vm-start: start=clone is not possible: *State blocked by non-migratable device*"])
    assert "Traceback" not in result.stdout.str()


SOILED = """
    seen = []
    def check(vm, expected):
        assert ("soiled" in vm.console.text) == expected
        vm.console.send("soiled")
        vm.console.expect("soiled")
        seen.append((vm, vm.pid))
"""


@pytest.mark.parametrize(("scope", "start"), [("module", "cold"), ("module", "clone"), ("session", "clone")])
def test_a_shared_machine_is_set_back_for_each_test_that_uses_it(
    pytester: pytest.Pytester, run: Run, scope: str, start: str
) -> None:
    pytester.makepyfile(
        soiled=SOILED,
        test_it=f"""
            from soiled import check, seen
            def test_one(readonly_vm): check(readonly_vm, False)
            def test_two(readonly_vm_{scope}): check(readonly_vm_{scope}, False)
            def test_without(): assert "soiled" in seen[-1][0].console.text
            def test_three(readonly_vm): check(readonly_vm, False)
            def test_four(readonly_vm):
                assert "soiled" not in readonly_vm.console.text
                assert {{vm for vm, pid in seen}} == {{readonly_vm}}
                assert len({{pid for vm, pid in seen}}) == 3
        """,
    )
    result = run("echo", f"--vm-start={start}", f"--vm-scope={scope}", "--vm-reset=each-test")
    result.assert_outcomes(passed=5)


def test_it_is_not_unless_that_is_wanted(pytester: pytest.Pytester, run: Run) -> None:
    tests = "\n".join(f"def test_{word}(readonly_vm): check(readonly_vm, {word})" for word in (False, True))
    pytester.makepyfile(soiled=SOILED, test_it=f"from soiled import check\n{tests}")
    run("echo", "--vm-start=clone", "--vm-scope=module").assert_outcomes(passed=2)


def test_layers_are_given_by_marker_option_ini_and_fixture(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makeini("[pytest]\npythonpath = .\nvm_layers =\n    prepared:typed\n    prepared:more\n")
    pytester.makepyfile(
        prepared=PREPARED,
        test_it="""
            import pytest
            import prepared
            from pytest_readonly_vm import layer
            def text(vm): return vm.console.text.partition("hello")[2].strip()
            def test_ini(readonly_vm): assert text(readonly_vm) == "typedmore"
            @pytest.mark.vm(layers="prepared:more")
            def test_name(readonly_vm): assert text(readonly_vm) == "more"
            @pytest.mark.vm(layers=[prepared.more, prepared.typed("other"), "prepared:more"])
            def test_marker(readonly_vm): assert text(readonly_vm) == "moreothermore"
            @pytest.mark.vm(layers=[])
            def test_none(readonly_vm): assert text(readonly_vm) == ""
            class TestFixture:
                @pytest.fixture
                def vm_layers(self, vm_layers): return [*vm_layers, prepared.typed("third")]
                def test_fixture(self, readonly_vm): assert text(readonly_vm) == "typedmorethird"
        """,
    )
    result = run("echo", "--vm-start=clone", "--vm-report=page.html")
    result.assert_outcomes(passed=5)
    assert lines_of_starts(result) == ["1 machine booted", "5 machines cloned"]
    result.stdout.fnmatch_lines(["6 layers made in *.?? s"])
    # On the page, what was made for a machine is before its start.
    data = data_of(pytester.path / "page.html")
    assert sorted(start["layer"] for start in data["starts"] if start["manner"] == "layer") == [
        *("more", "more", "more", "typed", "typed('other')", "typed('third')"),
    ]
    [lane] = [lane for lane in data["lanes"] if lane["name"] == "test_ini"]
    kinds = [data["kinds"][kind] for kind in lane["entries"]["kind"]]
    assert kinds[:3] == ["boot", "layer", "layer"]
    assert lane["asked"] <= lane["entries"]["time"][0] <= lane["entries"]["time"][2] < lane["started"]
    result = run("echo", "--vm-start=clone", "--vm-layers=prepared:more", "--vm-layers=prepared:typed", "-k", "fixture")
    result.stdout.fnmatch_lines(["E *moretypedthird*"])


def test_a_marker_with_what_is_no_layer_is_refused_before_any_test_runs(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile("""
        import pytest
        def test_other(): print("it ran")
        @pytest.mark.vm(layers=test_other)
        def test_it(readonly_vm): pass
    """)
    result = run("hello", "-s")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: marker on *.py::test_it: layers: *"])
    assert "it ran" not in result.stdout.str()


def test_a_machine_that_has_the_mark_of_another_fails_its_test_by_name(pytester: pytest.Pytester, run: Run) -> None:
    guest = tiny_linux()
    pytester.makepyfile("""
        import pytest
        from pytest_readonly_vm import layer

        @layer
        def used(vm):
            vm.prove_pristine()

        @pytest.mark.parametrize("number", range(2))
        def test_pristine(readonly_vm, number):
            readonly_vm.reset()

        @pytest.mark.vm(layers=used)
        def test_used(readonly_vm): pass
    """)
    direct = [f"--vm-kernel={guest.kernel}", f"--vm-initrd={guest.initrd}", f"--vm-append={guest.append}"]
    options = [f"--vm-image={guest.disk}", *direct, "--vm-memory=128M", "--vm-ready=auto", "--vm-prove-pristine"]
    result = pytester.runpytest_subprocess(*SMALL, *options, f"--vm-cache={templates()}")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(
        ["*ERROR at setup of test_used*", "test_used: the machine is not pristine: it has the mark of * test_used"]
    )
