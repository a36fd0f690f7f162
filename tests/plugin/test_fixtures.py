"""The fixtures: one machine a test or one shared by a scope, each rung of the ladder overridable."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.forked import PLAIN

Run = Callable[..., pytest.RunResult]


def test_every_test_has_a_machine_of_its_own_that_is_gone_afterwards(pytester: pytest.Pytester, run_on: Run) -> None:
    pytester.makepyfile("""
        import os
        seen = []
        def test_one(readonly_vm):
            seen.append(readonly_vm)
            assert readonly_vm.is_running() and readonly_vm.boot_seconds > 0
        def test_two(readonly_vm):
            assert readonly_vm.pid != seen[0].pid and not seen[0].is_running()
            assert not os.path.exists(f"/proc/{seen[0].pid}")
    """)
    run_on("hello").assert_outcomes(passed=2)


def test_every_test_sees_the_disk_as_the_base_has_it_although_each_writes(
    pytester: pytest.Pytester, run_on: Run
) -> None:
    pytester.makepyfile("""
        import pytest
        @pytest.mark.parametrize("number", range(3))
        def test_write(readonly_vm, number):
            readonly_vm.console.expect("written")
            assert "sector=pristine" in readonly_vm.console.text
    """)
    run_on("writer", "-n", "2").assert_outcomes(passed=3)


@pytest.mark.parametrize(("scope", "machines"), [("class", 4), ("module", 3), ("package", 2), ("session", 1)])
@pytest.mark.parametrize("by_setting", [False, True], ids=["by fixture", "by setting"])
def test_a_scope_shares_one_machine(
    pytester: pytest.Pytester, run_on: Run, scope: str, machines: int, by_setting: bool
) -> None:
    fixture = "readonly_vm" if by_setting else f"readonly_vm_{scope}"
    module = f"""
import sys, pathlib
def note(vm): (pathlib.Path(__file__).parents[1] / "pids" / str(vm.pid)).touch()
class TestOne:
    def test_one(self, {fixture}): note({fixture})
    def test_two(self, {fixture}): note({fixture})
"""
    more = f"""
class TestTwo:
    def test_three(self, {fixture}): note({fixture})
"""
    pytester.mkdir("pids")
    for path, text in (
        ("a/__init__.py", ""),
        ("b/__init__.py", ""),
        ("a/test_x.py", module + more),
        ("a/test_y.py", module),
        ("b/test_z.py", module),
    ):
        (pytester.path / path).parent.mkdir(exist_ok=True)
        (pytester.path / path).write_text(text)
    run_on("hello", *([f"--vm-scope={scope}"] if by_setting else [])).assert_outcomes(passed=7)
    assert len(list((pytester.path / "pids").iterdir())) == machines


def test_a_factory_makes_several_machines_that_differ(pytester: pytest.Pytester, run_on: Run) -> None:
    pytester.makepyfile("""
        def test_pair(readonly_vm_factory):
            server, client = readonly_vm_factory(name="server"), readonly_vm_factory(memory="20M", cpus=2)
            assert (server.name, client.name) == ("test_pair (server)", "test_pair (2)")
            assert (client.config.memory, client.config.cpus) == (20 << 20, 2)
            assert len(client.qmp.execute("query-cpus-fast")) == 2
            assert server.is_running() and client.is_running()
    """)
    run_on("hello").assert_outcomes(passed=1)


def test_a_settings_fixture_can_be_overridden_and_parametrised_at_any_scope(
    pytester: pytest.Pytester, run_on: Run
) -> None:
    pytester.makepyfile("""
        import pytest
        @pytest.fixture(params=["8M", 12 << 20], ids=["small", "large"])
        def vm_memory(request): return request.param
        @pytest.fixture(scope="module")
        def vm_cpus(): return 2
        def test_by_fixture(readonly_vm, request):
            assert readonly_vm.config.memory == {"small": 8 << 20, "large": 12 << 20}[request.node.callspec.id]
            assert readonly_vm.config.cpus == 2
        @pytest.mark.parametrize("vm_memory", ["6M"])
        def test_by_mark(readonly_vm):
            assert readonly_vm.config.memory == 6 << 20
            assert readonly_vm.config.origin("memory") == "fixture vm_memory"
    """)
    run_on("hello").assert_outcomes(passed=3)


def test_vm_config_can_be_overridden_for_what_no_setting_says(pytester: pytest.Pytester, run_on: Run) -> None:
    pytester.makepyfile("""
        import pytest
        @pytest.fixture
        def vm_config(vm_config, request):
            return vm_config.replace(qemu_args=["-device", "pvpanic"], memory=vm_config.memory * 2)
        @pytest.fixture(scope="module")
        def vm_config_module(vm_config_module):
            return vm_config_module.replace(cpus=2)
        def test_own(readonly_vm):
            assert readonly_vm.config.memory == 32 << 20 and readonly_vm.config.qemu_args == ("-device", "pvpanic")
        def test_shared(readonly_vm_module):
            assert readonly_vm_module.config.cpus == 2
    """)
    run_on("hello").assert_outcomes(passed=2)


def test_several_images_run_every_test_of_a_machine_once_each_with_readable_ids(
    pytester: pytest.Pytester, run_on: Run, boot_sector: Callable[[str], Path]
) -> None:
    pytester.makepyfile("""
        def test_it(readonly_vm, vm_image): assert readonly_vm.config.image == vm_image
        def test_shared(readonly_vm_module): pass
        def test_without_machine(): pass
    """)
    result = run_on("hello", f"--vm-image={boot_sector('echo')}", "-v")
    result.assert_outcomes(passed=5)
    result.stdout.fnmatch_lines_random(
        [
            "*::test_it[[]hello[]]*",
            "*::test_it[[]echo[]]*",
            "*::test_shared[[]echo[]]*",
            "*::test_without_machine PASSED*",
        ]
    )


def test_images_of_the_same_name_are_told_apart_by_their_folders(
    pytester: pytest.Pytester, boot_sector: Callable[[str], Path]
) -> None:
    for folder in ("old", "new"):
        pytester.mkdir(folder).joinpath("base.img").write_bytes(boot_sector("hello").read_bytes())
    pytester.makepyfile("def test_it(vm_image): pass")
    result = pytester.runpytest_subprocess("--vm-image=old/base.img", "--vm-image=new/base.img", "-v")
    result.stdout.fnmatch_lines_random(["*test_it[[]old-base[]]*", "*test_it[[]new-base[]]*"])


def test_no_image_at_all_says_how_to_give_one(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(readonly_vm): pass")
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["no base image: give one with --vm-image=PATH, PYTEST_VM_IMAGE, *"])


def test_one_test_cannot_change_the_machine_that_it_shares(pytester: pytest.Pytester, run_on: Run) -> None:
    pytester.makepyfile("""
        import pytest
        @pytest.mark.vm(memory="20M")
        def test_it(readonly_vm): pass
    """)
    result = run_on("hello", "--vm-scope=module")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["marker on *::test_it: memory cannot differ for one test, which shares the machine of *"]
    )


def test_a_marker_can_give_a_whole_scope_its_machine(pytester: pytest.Pytester, run_on: Run) -> None:
    pytester.makepyfile("""
        import pytest
        pytestmark = pytest.mark.vm(memory="20M", scope="module")
        def test_it(readonly_vm, readonly_vm_module):
            assert readonly_vm is readonly_vm_module and readonly_vm.config.memory == 20 << 20
    """)
    run_on("hello").assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("marker", "fixture", "complaint"),
    [
        ("memroy='1G'", "readonly_vm", "there is no setting 'memroy' (did you mean 'memory'[?])"),
        ("memory='0M'", "readonly_vm", "memory: '0M' is 0 bytes, less than the smallest that is taken (1M)*"),
        ("'1G'", "readonly_vm", "vm takes settings by name, like vm(memory=\"2G\"), not ('1G',)"),
        ("memory='1G'", "readonly_vm_module", "vm cannot change readonly_vm_module, which other tests share; *"),
    ],
)
def test_a_marker_that_cannot_work_is_refused(
    pytester: pytest.Pytester, run_on: Run, marker: str, fixture: str, complaint: str
) -> None:
    pytester.makepyfile(f"""
        import pytest
        @pytest.mark.vm({marker})
        def test_it({fixture}): pass
    """)
    result = run_on("hello")
    result.stderr.fnmatch_lines([f"*marker on *::test_it: {complaint}"])
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "INTERNALERROR" not in result.stdout.str()


def test_a_marker_that_cannot_work_is_refused_by_workers_too(pytester: pytest.Pytester, run_on: Run) -> None:
    pytester.makepyfile("""
        import pytest
        @pytest.mark.vm(memory="0M")
        def test_it(readonly_vm): pass
    """)
    result = run_on("hello", "-n", "2")
    result.stdout.fnmatch_lines(
        ["*marker on *::test_it: memory: '0M' is 0 bytes, less than the smallest that is taken*"]
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "INTERNALERROR" not in result.stdout.str()


def test_all_markers_that_cannot_work_are_told_at_once(pytester: pytest.Pytester, run_on: Run) -> None:
    pytester.makepyfile(
        test_a="""
            import pytest
            pytestmark = pytest.mark.vm(cpu=2)
            @pytest.mark.vm(memory="0M", cpus=0)
            @pytest.mark.parametrize("number", [1, 2])
            def test_one(readonly_vm, number): pass
            def test_right(readonly_vm): pass
        """,
        test_b="""
            import pytest
            @pytest.mark.vm("1G")
            class TestIt:
                def test_two(self, readonly_vm): pass
                @pytest.mark.vm(memory="1G")
                def test_three(self, readonly_vm_class): pass
        """,
    )
    result = run_on("hello")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [
            "ERROR: 5 markers cannot work:",
            "  marker on test_a.py::test_one[[]1[]]: memory: '0M' is 0 bytes, *",
            "  marker on test_a.py::test_one[[]1[]]: cpus: 0 is not a whole number of at least 1",
            "  marker on test_a.py: there is no setting 'cpu' (did you mean 'cpus'[?])",
            "  marker on test_b.py::TestIt: vm takes settings by name, *",
            "  marker on test_b.py::TestIt::test_three: vm cannot change readonly_vm_class, *",
            "",
        ],
        consecutive=True,
    )


def test_a_project_without_machines_hears_nothing_of_the_plugin(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import sys
        def test_it(): assert "pytest_readonly_vm.machine.lab" not in sys.modules
    """)
    result = pytester.run(sys.executable, "-m", "pytest", *PLAIN)  # which has imported nothing before
    result.assert_outcomes(passed=1)
    assert "vm:" not in result.stdout.str()
    assert "virtual machine" not in result.stdout.str()
