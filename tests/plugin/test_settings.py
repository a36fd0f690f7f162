"""A setting has one name in four places, an order among them, and complaints that say where to mend it."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import SMALL
from tests.forked import PLAIN

Run = Callable[..., pytest.RunResult]

SHOW = """
def test_show(vm_config):
    print(f"memory={vm_config.memory >> 20}M from {vm_config.origin('memory')}")
"""


def shown(result: pytest.RunResult) -> str:
    return next(
        (line[line.index("memory=") :] for line in result.outlines if "memory=" in line and " from " in line),
        "\n".join(result.outlines),
    )


def test_marker_beats_fixture_beats_option(pytester: pytest.Pytester, run_on: Run) -> None:
    def result() -> str:
        return shown(run_on("hello", "-s"))

    pytester.makepyfile(test_it=SHOW)
    assert result() == "memory=16M from --vm-memory"
    pytester.makeconftest("import pytest\n@pytest.fixture\ndef vm_memory(): return '20M'")
    assert result() == "memory=20M from fixture vm_memory"
    pytester.makepyfile(test_it="import pytest\npytestmark = pytest.mark.vm(memory='24M')\n" + SHOW)
    assert result() == "memory=24M from marker on test_it.py"
    pytester.makepyfile(
        test_it="import pytest\npytestmark = pytest.mark.vm(memory='24M')\n@pytest.mark.vm(memory='28M')" + SHOW
    )
    assert result() == "memory=28M from marker on test_it.py::test_show"


def test_option_beats_environment_beats_ini_beats_default(
    pytester: pytest.Pytester, boot_sector: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(test_it=SHOW)
    options = (f"--vm-image={boot_sector('hello')}", "--vm-ready=console:hello", "-s", *PLAIN)
    assert shown(pytester.runpytest_subprocess(*options)) == "memory=1024M from the default"
    pytester.makeini("[pytest]\nvm_memory = 12M")
    assert shown(pytester.runpytest_subprocess(*options)) == "memory=12M from tox.ini: vm_memory"
    assert shown(pytester.runpytest_subprocess(*options, "-o", "vm_memory=13M")) == "memory=13M from tox.ini: vm_memory"
    monkeypatch.setenv("PYTEST_VM_MEMORY", "14M")
    assert shown(pytester.runpytest_subprocess(*options)) == "memory=14M from PYTEST_VM_MEMORY"
    assert shown(pytester.runpytest_subprocess(*options, "--vm-memory=15M")) == "memory=15M from --vm-memory"


def test_the_native_table_of_pyproject_toml_takes_native_values(
    pytester: pytest.Pytester, boot_sector: Callable[[str], Path]
) -> None:
    (pytester.path / "images").mkdir()
    (pytester.path / "images" / "base.img").write_bytes(boot_sector("hello").read_bytes())
    pytester.makepyprojecttoml("""
        [tool.pytest]
        vm_image = ["images/base.img"]
        vm_memory = "16M"
        vm_cpus = 2
        vm_boot_timeout = 60
        vm_monitor = true
        vm_ready = "console:hello"
        vm_qemu_args = ["-device", "pvpanic"]
    """)
    pytester.mkdir("elsewhere")
    pytester.makepyfile(
        test_it="""
        def test_it(readonly_vm, request):
            config = readonly_vm.config
            assert config.image == request.config.rootpath / "images" / "base.img"
            assert (config.cpus, config.boot_timeout, config.monitor) == (2, 60.0, True)
            assert config.qemu_args == ("-device", "pvpanic")
            assert config.origin("cpus") == "pyproject.toml: vm_cpus"
    """
    )
    result = pytester.run(
        "sh", "-c", f"cd elsewhere && exec {sys.executable} -m pytest {' '.join(PLAIN)} ../test_it.py"
    )
    result.assert_outcomes(passed=1)


def test_paths_are_relative_to_where_they_were_given(
    pytester: pytest.Pytester, boot_sector: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = boot_sector("hello").read_bytes()
    for name in ("option", "environment", "ini", "sub/marker", "sub/factory"):
        path = pytester.path / f"{name}.img"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    pytester.makeini("[pytest]\nvm_image = ini.img\nvm_ready = console:hello\nvm_memory = 16M")
    (pytester.path / "sub" / "test_it.py").write_text("""
import os, pytest
def test_given(vm_config):
    assert vm_config.image.stem == os.environ["EXPECTED"]
@pytest.mark.vm(image="marker.img")
def test_marker(readonly_vm_factory):
    assert readonly_vm_factory().config.image.stem == "marker"
    assert readonly_vm_factory(image="factory.img").config.image.stem == "factory"
""")
    for expected, options, environment in (
        ("ini", (), None),
        ("environment", (), "environment.img"),
        ("option", ("--vm-image=option.img",), "environment.img"),
    ):
        monkeypatch.setenv("EXPECTED", expected)
        if environment:
            monkeypatch.setenv("PYTEST_VM_IMAGE", environment)
        pytester.runpytest_subprocess(*options, *PLAIN, "sub").assert_outcomes(passed=2)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--vm-image=nope.img",), "--vm-image: *: No such file or directory, and no vm-images.toml in that folder *"),
        (("--vm-memory=lots",), "--vm-memory: memory: 'lots' is not a size; write it like 512M or 2G"),
        (("--vm-accel=kmv",), "--vm-accel: accel: 'kmv' is not one of auto, kvm, tcg (did you mean 'kvm'[?])"),
        (("-o", "vm_cpus=two"), "*vm_cpus: *two*"),
        (("--vm-ready=console:(",), "--vm-ready: ready: '(' is not a regular expression: *"),
    ],
)
@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["one process", "xdist"])
def test_a_wrong_value_ends_the_run_before_anything_is_collected(
    pytester: pytest.Pytester, options: tuple[str, ...], complaint: str, workers: tuple[str, ...]
) -> None:
    pytester.makepyfile("def test_it(readonly_vm): pass")
    result = pytester.runpytest_subprocess(*options, *workers, *PLAIN)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {complaint}"])
    assert not [line for line in result.errlines if "Traceback" in line or "INTERNALERROR" in line]


@pytest.mark.parametrize("place", ["option", "environment", "ini", "marker", "fixture"])
def test_a_home_that_nobody_has_is_named_with_the_place(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    test, options, origin = "def test_it(readonly_vm): pass", [], f"{place} vm_tmpdir"
    if place == "option":
        options, origin = ["--vm-tmpdir=~nosuchuser/x"], "--vm-tmpdir"
    elif place == "environment":
        monkeypatch.setenv("PYTEST_VM_TMPDIR", "~nosuchuser/x")
        origin = "PYTEST_VM_TMPDIR"
    elif place == "ini":
        pytester.makeini("[pytest]\nvm_tmpdir = ~nosuchuser/x")
        origin = "tox.ini: vm_tmpdir"
    elif place == "marker":
        test = f"import pytest\n@pytest.mark.vm(tmpdir='~nosuchuser/x')\n{test}"
        origin = "marker on *test_it"
    else:
        pytester.makeconftest("import pytest\n@pytest.fixture\ndef vm_tmpdir(): return '~nosuchuser/x'")
    pytester.makepyfile(test)
    result = pytester.runpytest_subprocess(*PLAIN, *options)
    said = result.stdout if place == "fixture" else result.stderr
    said.fnmatch_lines([f"*{origin}: tmpdir: '~nosuchuser/x' is in no home: there is no user 'nosuchuser'; *"])
    assert not [line for line in result.outlines + result.errlines if "INTERNALERROR" in line]


def test_a_cache_that_cannot_be_had_ends_the_run_that_asks_for_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(): pass")
    pytester.mkdir("open").chmod(0o755)
    (pytester.path / "file").touch()
    for folder, complaint in (
        (
            "open",
            "*open is not a folder that only you can use (owner *, mode 755); chmod 700 */open, or name another *",
        ),
        ("file", "*file cannot be used: File exists; name another folder by --vm-cache=DIR, or use --vm-no-cache"),
    ):
        result = pytester.runpytest_subprocess(*PLAIN, f"--vm-cache={folder}")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([f"ERROR: --vm-cache: {complaint}"])
    assert pytester.runpytest_subprocess(*PLAIN, "--vm-cache=file", "--vm-no-cache").ret == pytest.ExitCode.OK


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["one process", "xdist"])
def test_one_that_is_set_for_all_runs_is_done_without_and_that_is_told(
    pytester: pytest.Pytester, run_on: Run, monkeypatch: pytest.MonkeyPatch, workers: tuple[str, ...]
) -> None:
    (pytester.path / "file").touch()
    monkeypatch.setenv("PYTEST_VM_CACHE", "file")
    pytester.makepyfile("def test_it(readonly_vm): pass")
    result = run_on("hello", "--vm-start=clone", *workers)
    result.assert_outcomes(passed=1)
    reason = "*file cannot be used: File exists; name another folder by --vm-cache=DIR, or use --vm-no-cache"
    result.stdout.fnmatch_lines([f"vm: cache (from PYTEST_VM_CACHE): guests are not kept for later runs: {reason}"])


def test_names_that_are_no_utf8_are_no_internal_error_of_xdist(
    pytester: pytest.Pytester, boot_sector: Callable[[str], Path]
) -> None:
    image = pytester.path / os.fsdecode(b"caf\xe9.img")
    image.write_bytes(boot_sector("hello").read_bytes())
    pytester.makepyfile("def test_it(readonly_vm): assert not readonly_vm.config.image")
    run = [sys.executable, "-m", "pytest", *SMALL, *PLAIN, "-n", "1"]  # which pytester would take for UTF-8
    refused = subprocess.run([*run, f"--vm-image={image}"], capture_output=True, check=False)
    assert refused.returncode == pytest.ExitCode.USAGE_ERROR
    assert b"not UTF-8, so xdist cannot tell its workers; set the variable PYTEST_VM_IMAGE instead" in refused.stderr
    failed = subprocess.run(run, env={**os.environ, "PYTEST_VM_IMAGE": str(image)}, capture_output=True, check=False)
    assert failed.returncode == pytest.ExitCode.TESTS_FAILED
    assert rb"caf\udce9.img" in failed.stdout
    assert b"INTERNALERROR" not in failed.stdout
    assert b".img unchanged after 1 test (" in failed.stdout


def test_an_unknown_environment_variable_names_the_nearest(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_VM_MEMROY", "1G")
    result = pytester.runpytest_subprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*PYTEST_VM_MEMROY in the environment*(did you mean 'PYTEST_VM_MEMORY'[?])"])


def test_help_markers_and_fixtures_list_everything(pytester: pytest.Pytester) -> None:
    from pytest_readonly_vm.config.table import OPTIONS, SCOPES

    help_text = pytester.runpytest_subprocess("--help", *PLAIN).stdout.str()
    fixtures = pytester.runpytest_subprocess("--fixtures", *PLAIN).stdout.str()
    for name in OPTIONS:
        assert f"--vm-{name.replace('_', '-')}" in help_text
        assert f"vm_{name}" in help_text
        assert f"vm_{name} [session scope]" in fixtures
    for scope in SCOPES[1:]:
        assert f"readonly_vm_{scope} [" in fixtures
        assert f"vm_config_{scope} [" in fixtures
    assert not re.search(r"vm_\w+.*\n *no docstring available", fixtures)
    assert "@pytest.mark.vm(**settings)" in pytester.runpytest_subprocess("--markers", *PLAIN).stdout.str()
