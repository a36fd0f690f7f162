"""When evidence is saved, where, and what becomes of it: on boot-sector guests, by runs in processes of their own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.forked import PLAIN

Run = Callable[..., pytest.RunResult]

ALWAYS = {"overview.txt", "console.txt", "qmp.jsonl", "timeline.jsonl", "stderr.txt", "command.sh", "config.json"}
"""What is known of every machine, whatever has become of it."""

FAILING = "def test_it(readonly_vm): assert 0"


def folders(where: Path, output: str = "test-results") -> dict[str, set[str]]:
    """The folders of evidence by their paths below the output folder, without hashes, with the names of their files."""
    top = where / output
    return {
        str(mark.parent.relative_to(top)): {path.name for path in mark.parent.iterdir() if path.is_file()} - {mark.name}
        for mark in sorted(top.rglob(".readonly-vm-evidence"))
    }


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def only_folder(where: Path) -> Path:
    [name] = folders(where)
    return where / "test-results" / name


def test_a_failing_test_leaves_a_folder_and_a_passing_one_nothing(pytester: pytest.Pytester, run_on: Run) -> None:
    pytester.makepyfile("""
        def test_bad(readonly_vm):
            readonly_vm.qmp.execute("query-version")
            assert 0, "because"
        def test_good(readonly_vm): pass
    """)
    result = run_on("hello")
    result.assert_outcomes(failed=1, passed=1)
    [(name, files)] = folders(pytester.path).items()
    assert name.startswith("test_a_failing_test_leaves_a_folder_and_a_passing_one_nothing.py-test_bad-")
    assert files == ALWAYS | {"screenshot.png"}
    result.stdout.fnmatch_lines(["*- Evidence folder -*", f"test-results/{name}"])
    assert result.stdout.str().count(f"test-results/{name}") == 1
    assert names(pytester.path / "test-results") == [name]

    folder = only_folder(pytester.path)
    assert (folder / "console.txt").read_text() == "hello"
    assert (folder / "screenshot.png").read_bytes().startswith(b"\x89PNG")
    messages = [json.loads(line) for line in (folder / "qmp.jsonl").read_text().splitlines()]
    [asked] = [message for message in messages if message.get("execute") == "query-version"]
    [answered] = [message for message in messages if message.get("to") == "query-version"]
    assert asked["time"] <= answered["time"]
    assert answered["return"]["qemu"]["major"] >= 6
    settings = json.loads((folder / "config.json").read_text())
    assert settings["memory"] == {"value": 16 << 20, "origin": "--vm-memory"}
    overview = (folder / "overview.txt").read_text()
    assert "failed in:  call: AssertionError: because" in overview
    assert "the guest was not asked: no channel has answered" in overview


def test_the_command_line_can_be_pasted(pytester: pytest.Pytester, run_on: Run) -> None:
    pytester.makepyfile(FAILING)
    run_on("hello")
    script = only_folder(pytester.path) / "command.sh"
    with subprocess.Popen([script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as qemu:
        try:
            assert qemu.stdout is not None
            assert qemu.stdout.read(5) == b"hello"
        finally:
            qemu.kill()


@pytest.mark.parametrize(("when", "saved"), [("on", 2), ("off", 0)])
def test_evidence_can_be_had_always_or_never(pytester: pytest.Pytester, run_on: Run, when: str, saved: int) -> None:
    pytester.makepyfile("def test_good(readonly_vm): pass\ndef test_bad(readonly_vm): assert 0")
    result = run_on("hello", f"--vm-evidence={when}")
    result.assert_outcomes(passed=1, failed=1)
    assert len(folders(pytester.path)) == saved


def test_a_boot_that_fails_leaves_evidence(pytester: pytest.Pytester, run_in_vain: Run) -> None:
    pytester.makepyfile("def test_it(readonly_vm): pass")
    result = run_in_vain("hello")
    result.assert_outcomes(errors=1)
    folder = only_folder(pytester.path)
    assert (folder / "console.txt").read_text() == "hello"
    assert (folder / "screenshot.png").exists()
    assert "failed in:  start: test_it: the guest was not ready within " in (folder / "overview.txt").read_text()
    result.stdout.fnmatch_lines(["*- Evidence folder -*", f"test-results/{folder.name}"])


def test_a_boot_that_is_expected_to_fail_leaves_none(pytester: pytest.Pytester, run_on: Run) -> None:
    pytester.makepyfile("""
        import pytest, pytest_readonly_vm
        def test_it(readonly_vm_factory):
            with pytest.raises(pytest_readonly_vm.BootTimeout):
                readonly_vm_factory(ready="console:never", boot_timeout=1)
    """)
    run_on("hello").assert_outcomes(passed=1)
    assert folders(pytester.path) == {}


@pytest.mark.parametrize("fixture", ["other(readonly_vm)", "other()"], ids=["the machine lives", "it has ended"])
def test_a_teardown_that_fails_leaves_evidence(pytester: pytest.Pytester, run_on: Run, fixture: str) -> None:
    arguments = "other, readonly_vm"
    pytester.makepyfile(f"""
        import pytest
        @pytest.fixture
        def {fixture}:
            yield
            raise RuntimeError("late")
        def test_it({arguments}): pass
    """)
    result = run_on("hello")
    result.assert_outcomes(passed=1, errors=1)
    folder = only_folder(pytester.path)
    assert {path.name for path in folder.iterdir()} >= ALWAYS
    assert (folder / "console.txt").read_text() == "hello"
    assert "failed in:  teardown: RuntimeError: late" in (folder / "overview.txt").read_text()


def test_several_machines_have_folders_of_their_own(pytester: pytest.Pytester, run_on: Run) -> None:
    pytester.makepyfile("""
        def test_it(readonly_vm_factory, readonly_vm_session):
            readonly_vm_factory()
            readonly_vm_factory(name="a server/of mine")
            assert 0
    """)
    run_on("hello").assert_outcomes(failed=1)
    top, *inner = folders(pytester.path)
    names = [Path(name).relative_to(top).name.rsplit("-", 1)[0] for name in inner]
    assert sorted(names) == ["1", "a-server-of-mine", "session-session"]
    assert all(files >= ALWAYS for name, files in folders(pytester.path).items() if name != top)


def test_a_shared_machine_behind_a_fixture_is_found(pytester: pytest.Pytester, run_on: Run) -> None:
    pytester.makepyfile("""
        import pytest
        @pytest.fixture
        def monitor(readonly_vm_module): return readonly_vm_module.qmp
        @pytest.fixture
        def name(readonly_vm): return readonly_vm.name
        def test_module(monitor): assert 0
        @pytest.mark.vm(scope="session")
        def test_session(name): assert 0
    """)
    run_on("hello", "--vm-scope=session").assert_outcomes(failed=2)
    assert len(folders(pytester.path)) == 2


def test_tests_after_the_loss_of_a_machine_add_nothing(pytester: pytest.Pytester, run_on: Run) -> None:
    pytester.makepyfile("""
        import os, signal
        def test_first(readonly_vm_module):
            readonly_vm_module.kill()
            readonly_vm_module.qmp.execute("query-status")
        def test_second(readonly_vm_module): pass
    """)
    run_on("hello").assert_outcomes(failed=1, errors=1)
    assert "test_first" in only_folder(pytester.path).name


def test_a_dead_machine_leaves_what_is_known_of_it(pytester: pytest.Pytester, run_on: Run) -> None:
    pytester.makepyfile("""
        import os, signal
        def test_it(readonly_vm):
            os.kill(readonly_vm.pid, signal.SIGSEGV)
            readonly_vm.qmp.execute("query-status")
    """)
    run_on("hello").assert_outcomes(failed=1)
    folder = only_folder(pytester.path)
    assert {path.name for path in folder.iterdir()} >= ALWAYS
    assert "was killed by SIGSEGV" in (folder / "overview.txt").read_text()


def test_a_stopped_qemu_holds_nothing_up(pytester: pytest.Pytester, run_on: Run) -> None:
    pytester.makepyfile("""
        import os, signal
        def test_it(readonly_vm):
            os.kill(readonly_vm.pid, signal.SIGSTOP)
            assert 0
        def test_next(readonly_vm): pass
    """)
    run_on("hello").assert_outcomes(failed=1, passed=1)
    folder = only_folder(pytester.path)
    assert {path.name for path in folder.iterdir()} - {".readonly-vm-evidence"} == ALWAYS
    assert "QEMU did not answer query-status within 1 s" in (folder / "overview.txt").read_text()


def test_a_piece_that_fails_is_named_and_the_others_are_there(pytester: pytest.Pytester, run_on: Run) -> None:
    pytester.makeconftest("""
        import pytest
        from pytest_readonly_vm.channels.screen import Screen
        @pytest.fixture(autouse=True)
        def fault(monkeypatch):
            async def picture(self): raise ZeroDivisionError("a bug")
            monkeypatch.setattr(Screen, "picture", picture)
    """)
    pytester.makepyfile(FAILING)
    run_on("hello").assert_outcomes(failed=1)
    folder = only_folder(pytester.path)
    assert {path.name for path in folder.iterdir()} - {".readonly-vm-evidence"} == ALWAYS
    assert "  screenshot.png: a bug" in (folder / "overview.txt").read_text()


@pytest.mark.parametrize("output", ["file/below", "/proc/evidence"])
def test_an_output_folder_that_cannot_be_had_is_a_line(pytester: pytest.Pytester, run_on: Run, output: str) -> None:
    (pytester.path / "file").touch()
    pytester.makepyfile(f"{FAILING}\ndef test_good(readonly_vm): pass")
    result = run_on("hello", f"--vm-output={output}", "--vm-evidence=on")
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines([f"no evidence of test_it: *{output}: *"])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
@pytest.mark.parametrize("state", ["read-only", "full"])
def test_a_file_system_that_takes_nothing_is_a_line(pytester: pytest.Pytester, run_on: Run, state: str) -> None:
    output = pytester.mkdir("results")
    options = "ro" if state == "read-only" else "size=4k,nr_inodes=5"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", output], check=True)
    try:
        pytester.makepyfile(FAILING)
        result = run_on("hello", "--vm-output=results")
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["n*evidence of test_it*: *"])
    finally:
        subprocess.run(["umount", output], check=True)


def test_each_attempt_is_kept(pytester: pytest.Pytester, run_on: Run) -> None:
    pytester.makepyfile("""
        attempts = []
        def test_it(readonly_vm):
            attempts.append(readonly_vm)
            readonly_vm.qmp.execute("qom-list", path="/machine", timeout=5)
            assert len(attempts) == 3
    """)
    result = run_on("hello", "--reruns=5", needed=("rerunfailures",))
    result.assert_outcomes(passed=1)
    first, second = folders(pytester.path)
    assert second == f"{first}-retry1"
    result.stdout.fnmatch_lines([f"evidence: test-results/{first}", f"evidence: test-results/{second}"])
    assert "attempt:    2" in (pytester.path / "test-results" / second / "overview.txt").read_text()


def test_workers_leave_each_others_folders_alone(pytester: pytest.Pytester, run_on: Run) -> None:
    pytester.makepyfile("""
        import pytest
        @pytest.mark.parametrize("number", range(6))
        def test_it(readonly_vm, number): assert number % 2
    """)
    stale = pytester.path / "test-results" / "of an earlier run"
    stale.mkdir(parents=True)
    (stale / ".readonly-vm-evidence").write_text("0123456789abcdef")
    (stale / "console.txt").touch()
    result = run_on("hello", "-n", "2", "--tb=no")  # so what is told with the failures otherwise is told at the end
    result.assert_outcomes(passed=3, failed=3)
    assert len(folders(pytester.path)) == 3
    assert all(files >= ALWAYS for files in folders(pytester.path).values())
    result.stdout.fnmatch_lines_random([f"evidence: test-results/{name}" for name in folders(pytester.path)])
    assert not stale.exists()


def test_the_same_test_in_two_workers_has_two_folders(pytester: pytest.Pytester, run_on: Run) -> None:
    pytester.makepyfile(FAILING)
    run_on("hello", "--dist=each", "--tx=2*popen").assert_outcomes(failed=2)
    first, second = folders(pytester.path)
    assert second == f"{first}-2"


def test_a_run_removes_what_earlier_ones_have_left_and_nothing_else(pytester: pytest.Pytester, run_on: Run) -> None:
    pytester.makepyfile("import os\ndef test_it(readonly_vm): assert 'GOOD' in os.environ")
    run_on("hello").assert_outcomes(failed=1)
    folder = only_folder(pytester.path)
    (folder / "overlay.qcow2").write_text("kept")
    users = pytester.mkdir("test-results/mine")
    (users / "console.txt").write_text("mine")
    pytester._monkeypatch.setenv("GOOD", "1")
    run_on("hello").assert_outcomes(passed=1)
    assert names(folder) == ["overlay.qcow2"]
    assert (users / "console.txt").read_text() == "mine"
    assert names(pytester.path / "test-results") == sorted([folder.name, "mine"])


def test_two_runs_at_once_do_not_remove_each_others(pytester: pytest.Pytester, run_on: Run) -> None:
    """The first run starts the second while it has failed once and is not over."""
    pytester.makepyfile("""
        import os, subprocess, sys
        def test_bad(readonly_vm): assert 0
        def test_another_run(readonly_vm):
            if "INNER" not in os.environ:
                subprocess.run([sys.executable, "-m", "pytest", *sys.argv[1:]], env={**os.environ, "INNER": "1"})
    """)
    run_on("hello").assert_outcomes(passed=1, failed=1)
    first, second = folders(pytester.path)
    assert second == f"{first}-2"
    assert all(files >= ALWAYS for files in folders(pytester.path).values())


def test_a_killed_run_holds_nothing_for_ever(pytester: pytest.Pytester, run_on: Run) -> None:
    pytester.makepyfile("""
        import os, signal
        def test_bad(readonly_vm): assert 0
        def test_end(readonly_vm): "KILL" in os.environ and os.kill(os.getpid(), signal.SIGKILL)
    """)
    pytester._monkeypatch.setenv("KILL", "1")
    assert run_on("hello").ret == -signal.SIGKILL
    [name] = folders(pytester.path)
    pytester._monkeypatch.delenv("KILL")
    run_on("hello").assert_outcomes(passed=1, failed=1)
    assert list(folders(pytester.path)) == [name]
    assert names(pytester.path / "test-results") == [name]


def test_secrets_are_in_no_file(pytester: pytest.Pytester, run_on: Run) -> None:
    data = pytester.path / "user-data"
    data.write_text("#cloud-config\nsecret: hush-in-user-data\n")
    pytester.makepyfile(f"""
        import pytest
        from pytest_readonly_vm import QmpError
        @pytest.mark.vm(password="hush-in-password", login="root", user_data={str(data)!r},
                        qemu_args="-object secret,id=sec0,data=hush-in-object,format=raw")
        def test_it(readonly_vm):
            qmp = readonly_vm.qmp
            with pytest.raises(QmpError):
                qmp.execute("set_password", protocol="vnc", password="hush-in-qmp")
            qmp.execute("object-add", {{"qom-type": "secret", "id": "sec1", "data": "hush-in-added"}})
            qmp.execute("qom-get", path="/objects/sec1", property="data")
            readonly_vm.screen.type("hush in keys")
            assert 0
    """)
    run_on("hello").assert_outcomes(failed=1)
    folder = only_folder(pytester.path)
    assert {path.name for path in folder.iterdir()} >= ALWAYS
    for path in folder.iterdir():
        assert b"hush" not in path.read_bytes(), path
    assert '"data": "***"' in (folder / "qmp.jsonl").read_text()
    assert '"password": {"value": "***", "origin": "marker on' in (folder / "config.json").read_text()
    assert "secret,id=sec0,data=***" in (folder / "command.sh").read_text()
    assert '"keys": "***"' in (folder / "qmp.jsonl").read_text()


@pytest.mark.parametrize("method", ["signal", "thread"])
def test_a_timeout_leaves_evidence(pytester: pytest.Pytester, run_on: Run, method: str) -> None:
    pytester.makepyfile(f"""
        import pytest, time
        @pytest.mark.timeout(2, method="{method}", func_only=True)  # however long the boot takes
        def test_it(readonly_vm): time.sleep(60)
    """)
    result = run_on("hello")
    folder = only_folder(pytester.path)
    assert {path.name for path in folder.iterdir()} >= ALWAYS | {"screenshot.png"}
    result.stdout.fnmatch_lines([f"*test-results/{folder.name}"])


def test_a_timeout_in_a_boot_leaves_evidence(pytester: pytest.Pytester, run_on: Run) -> None:
    pytester.makepyfile("""
        import pytest
        @pytest.mark.timeout(8, method="thread")
        def test_it(readonly_vm): pass
    """)
    result = run_on("hello", "--vm-ready=console:never")
    [(name, files)] = folders(pytester.path).items()
    assert files == ALWAYS | {"screenshot.png"}
    result.stdout.fnmatch_lines([f"*test-results/{name}"])


def test_a_run_without_machines_makes_no_folder(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(): assert 0")
    done = subprocess.run([sys.executable, "-m", "pytest", *PLAIN], capture_output=True, text=True)
    assert "1 failed" in done.stdout
    assert not (pytester.path / "test-results").exists()
