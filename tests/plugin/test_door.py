"""What a run without machines loads, and in which ways one comes to have a use for them: in new processes."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.accelerator import ACCEL
from tests.conftest import READY
from tests.forked import PLAIN
from tests.guests.tiny_linux import tiny_linux
from tests.qemu.waiting import GENEROUS
from tests.templates import templates

Run = Callable[..., pytest.RunResult]

AT_START = {"", ".config", ".config.table", ".plugin", ".plugin.door", ".plugin.fixtures", ".plugin.options"}

MODULES = """
    import sys
    def test_it():
        print("MODULES", *sys.modules)
"""


@pytest.fixture
def run(pytester: pytest.Pytester) -> Run:
    """Run pytest in a new interpreter, which has imported nothing before."""
    return lambda *options: pytester.run(sys.executable, "-m", "pytest", *PLAIN, *options, timeout=240)


@pytest.fixture
def on_boot_sector(pytester: pytest.Pytester, boot_sector: Callable[[str], Path]) -> None:
    """A project that gives all settings of its machines by fixtures, of which nothing shows at the start."""
    pytester.makeconftest(
        overridden(image=boot_sector("hello"), memory="16M", ready=f"console:{READY}", accel=ACCEL, boot_timeout=60)
    )


def overridden(**settings: object) -> str:
    fixtures = [
        f"@pytest.fixture(scope='session')\ndef vm_{name}(): return {str(value)!r}" for name, value in settings.items()
    ]
    return "\n".join(["import pytest", *fixtures])


def modules(run: Run, *options: str) -> set[str]:
    result = run("-s", *options)
    result.assert_outcomes(passed=1)
    [line] = [line for line in result.outlines if "MODULES" in line]
    return set(line.partition("MODULES")[2].split())


def test_a_run_without_machines_loads_this_and_nothing_else(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(MODULES)
    assert modules(run) - modules(run, "-p", "no:readonly_vm") == {f"pytest_readonly_vm{name}" for name in AT_START}


@pytest.mark.parametrize(
    "use",
    [
        "def test_it(vm_memory): pass",
        "import pytest\n@pytest.mark.vm(cpus=2)\ndef test_it(): pass",
        "import pytest\nfrom pytest_readonly_vm import VmError\ndef test_it(): pass",
        "def test_it(request): request.getfixturevalue('vm_config')",
    ],
    ids=["fixture", "marker", "import", "fixture asked for later"],
)
def test_whoever_uses_something_of_ours_has_all_of_it_as_python_imports_it(
    pytester: pytest.Pytester, run: Run, use: str
) -> None:
    pytester.makepyfile(use)
    pytester.makeconftest("""
        import sys

        def pytest_sessionfinish(session):
            assert session.config.pluginmanager.hasplugin("readonly_vm hooks")
            print("LOADED BY", type(sys.modules["pytest_readonly_vm.plugin.hooks"].__loader__).__name__)
    """)
    result = run()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*LOADED BY SourceFileLoader"])


@pytest.mark.parametrize("options", [["--vm-memory=1X"], ["-o", "vm_memory=1X"], ["-o", "vm_cpus=many"]])
def test_a_wrong_setting_is_told_where_nobody_uses_a_machine(
    pytester: pytest.Pytester, run: Run, options: list[str]
) -> None:
    pytester.makepyfile("def test_it(): pass")
    result = run(*options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*vm[-_]*1X*" if "1X" in options[-1] else "*vm_cpus: *"])


@pytest.mark.usefixtures("on_boot_sector")
@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["one process", "xdist"])
def test_the_summary_tells_of_machines_that_nothing_announced(
    pytester: pytest.Pytester, run: Run, workers: tuple[str, ...]
) -> None:
    pytester.makepyfile("""
        def test_good(readonly_vm): pass
        def test_bad(readonly_vm): assert 0
    """)
    result = run("--tb=no", *workers)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*- virtual machines -*", "base hello.img unchanged after 2 tests*", "evidence: *"])


@pytest.mark.usefixtures("on_boot_sector")
def test_a_machine_that_only_the_test_itself_asks_for_is_a_machine_like_others(
    pytester: pytest.Pytester, run: Run
) -> None:
    pytester.makepyfile("""
        from pathlib import Path

        def test_it(request):
            vm = request.getfixturevalue("readonly_vm")
            Path("folder").write_text(str(vm.instance.process.pid))
            assert 0

        def test_after():
            assert not Path("/proc", Path("folder").read_text()).exists()
    """)
    result = run()
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*- Evidence folder -*", "*- virtual machines -*", "base hello.img unchanged after *"])


def test_the_health_gates_look_at_a_machine_that_only_the_test_itself_asks_for(
    pytester: pytest.Pytester, run: Run
) -> None:
    guest = tiny_linux()
    pytester.makeconftest(
        overridden(
            image=guest.disk,
            kernel=guest.kernel,
            initrd=guest.initrd,
            append=guest.append,
            memory="128M",
            accel=ACCEL,
            cache=templates(),
            boot_timeout=GENEROUS,
            health="kernel",
        )
    )
    pytester.makepyfile("""
        def test_sick(request):
            vm = request.getfixturevalue("readonly_vm")
            vm.run("echo disk trouble >/sys/fs/ext4/vda/trigger_fs_error")
    """)
    result = run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*the test passed, but the guest is not healthy: *EXT4-fs error*"])


def test_an_error_of_ours_is_shown_where_the_code_of_the_user_met_it_without_any_fixture(
    pytester: pytest.Pytester, run: Run
) -> None:
    pytester.makepyfile("""
        def test_it():
            from pytest_readonly_vm import VmConfig
            VmConfig().replace(memory="1X")
    """)
    result = run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(['>*VmConfig().replace(memory="1X")', "E *ConfigurationError: *"])
    assert "with_settings" not in result.stdout.str()
