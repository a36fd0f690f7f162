"""However a run ends, and at whatever stage: two seconds later no process of it lives, and the next run tidies up."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_readonly_vm import Lab, VirtualMachine, VmConfig
from tests.conftest import READY, SMALL
from tests.qemu.inner_run import InnerRun
from tests.qemu.waiting import as_promised, eventually

STAGES = ("boot", "test", "teardown", "late_teardown")
"""Where a run is when it meets its end: in the last two a fixture blocks before, or after, the machine has gone."""

BLOCKED = f"""
    import os
    import threading
    from pathlib import Path

    import pytest

    STAGE = os.environ["STAGE"]

    def arrive(at):
        if at == STAGE:
            Path("pid").write_text(str(os.getpid()))
            Path("pid").rename(at)

    @pytest.fixture
    def below():
        arrive("boot")
        yield
        if STAGE == "late_teardown" and machines:  # else its time limit is over, and nothing would end the wait
            arrive("late_teardown")
            threading.Event().wait()

    machines = []

    @pytest.fixture
    def above(readonly_vm):
        machines.append(readonly_vm)
        yield
        arrive("teardown")
        if STAGE == "teardown":
            readonly_vm.console.expect("never", timeout=600)

    @pytest.mark.vm(ready="console:never" if STAGE == "boot" else "console:{READY}")
    def test_blocked(below, readonly_vm, above):
        arrive("test")
        if STAGE == "test":
            readonly_vm.console.expect("never", timeout=600)

    @pytest.mark.parametrize("number", range(int(os.environ.get("OTHERS", 0))))
    def test_other(number, readonly_vm):
        assert readonly_vm.qmp.execute("query-status")["running"]
"""

CONFTEST = """
    from pathlib import Path

    def pytest_keyboard_interrupt():
        Path("interrupted").touch()
"""


@pytest.fixture(params=STAGES)
def stage(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """The ``TMPDIR`` of the runs of a test."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    return folder


@pytest.fixture
def run(
    pytester: pytest.Pytester, boot_sector: Callable[[str], Path], temporary: Path, stage: str
) -> Callable[..., InnerRun]:
    """Begin a run of which a test blocks at the stage."""
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_blocked=BLOCKED)

    def begin(*arguments: str, others: int = 0) -> InnerRun:
        settings = {"STAGE": stage, "OTHERS": str(others)}
        # Where a boot is slow enough to be worth a copy, the next test's machine would be there at some stages, too.
        options = [f"--vm-image={boot_sector('hello')}", *SMALL, "--vm-prefetch=0", *arguments]
        return InnerRun(pytester.path, *options, temporary=temporary, settings=settings)

    return begin


@pytest.fixture
def tidied_by_the_next(
    small: Callable[..., VmConfig], temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], None]:
    """Check that nothing of a dead run is there once a following one has a machine, and nothing at all after that."""

    def check() -> None:
        monkeypatch.setenv("TMPDIR", str(temporary))
        with Lab() as following:
            machine = following.start(small("hello"), name="next")
            [own] = (temporary / f"pytest-readonly-vm-{os.getuid()}").iterdir()
            assert files(temporary) == [str(own.relative_to(temporary))]
            machine.close()
        assert files(temporary) == []

    return check


def files(folder: Path) -> list[str]:
    """What is in a folder of temporary files, apart from pytest's own and from the folder of all workspaces."""
    tops = [path for path in folder.iterdir() if not path.name.startswith("pytest-of-")]
    workspaces = [path for path in tops if path.name.startswith("pytest-readonly-vm-")]
    found = [path for path in tops if path not in workspaces] + [run for path in workspaces for run in path.iterdir()]
    return sorted(str(path.relative_to(folder)) for path in found)


def blocks(run: InnerRun, stage: str, temporary: Path) -> int:
    """Wait until a run has arrived at its stage; the id of the process in which it is."""
    pid = int(run.reaches(stage).read_text())
    if stage == "boot":  # the guest has printed all that it ever will
        eventually(lambda: any(READY in log.read_text() for log in temporary.glob("*/*/*/console.log")), "a boot")
    return pid


def test_sigkill_of_pytest(
    run: Callable[..., InnerRun], stage: str, temporary: Path, tidied_by_the_next: Callable[[], None]
) -> None:
    with run() as dead:
        blocks(dead, stage, temporary)
        assert len(dead.emulators()) == (stage != "late_teardown")
        dead.send(signal.SIGKILL)
        dead.wait()
        dead.leaves_no_process()
    tidied_by_the_next()


def test_control_c_once(
    run: Callable[..., InnerRun], stage: str, temporary: Path, tidied_by_the_next: Callable[[], None]
) -> None:
    with run() as dead:
        blocks(dead, stage, temporary)
        dead.press_control_c()
        assert dead.wait() == pytest.ExitCode.INTERRUPTED, dead.output
        dead.leaves_no_process()
        assert "INTERNALERROR" not in dead.output
    assert files(temporary) == []
    tidied_by_the_next()


def test_control_c_twice(
    run: Callable[..., InnerRun], stage: str, temporary: Path, tidied_by_the_next: Callable[[], None]
) -> None:
    with run() as dead:
        blocks(dead, stage, temporary)
        dead.press_control_c()
        dead.reaches("interrupted")
        dead.press_control_c()
        dead.wait()
        dead.leaves_no_process()
    tidied_by_the_next()


# The thread's way of it is to end the process, as SIGKILL does.
@pytest.mark.parametrize(("method", "stage"), [("thread", "test"), *(("signal", stage) for stage in STAGES)])
def test_timeout(
    run: Callable[..., InnerRun],
    stage: str,
    method: str,
    pytester: pytest.Pytester,
    temporary: Path,
    tidied_by_the_next: Callable[[], None],
) -> None:
    for patience in (2, 15, 45):
        with run(f"--timeout={patience}", f"--timeout-method={method}") as dead:
            assert dead.wait() == pytest.ExitCode.TESTS_FAILED, dead.output
            dead.leaves_no_process()
            assert "Timeout" in dead.output
        if (pytester.path / stage).exists():  # else the computer was so slow that it met its end earlier
            break
    assert (pytester.path / stage).exists()
    if method == "signal":
        assert files(temporary) == []
    tidied_by_the_next()


@pytest.mark.parametrize("stage", ["boot", "test", "teardown"])
def test_sigkill_of_qemu(
    run: Callable[..., InnerRun], stage: str, temporary: Path, tidied_by_the_next: Callable[[], None]
) -> None:
    with run("-rp", others=1) as hurt:
        blocks(hurt, stage, temporary)
        [emulator] = hurt.emulators()
        os.kill(emulator, signal.SIGKILL)
        assert hurt.wait() == pytest.ExitCode.TESTS_FAILED, hurt.output
        hurt.leaves_no_process()
        assert "QEMU was killed by SIGKILL" in hurt.output
        assert "PASSED test_blocked.py::test_other[0]" in hurt.output
    assert files(temporary) == []
    tidied_by_the_next()


def test_a_qemu_that_hangs_is_killed_when_its_test_is_over(
    boot: Callable[..., VirtualMachine], temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(temporary))
    machine = boot("hello")
    os.kill(machine.pid, signal.SIGSTOP)
    machine.close()
    assert not machine.is_running()
    with pytest.raises(ProcessLookupError):
        os.kill(machine.pid, 0)


@pytest.mark.parametrize("stage", ["boot", "teardown"])
def test_sigkill_of_an_xdist_worker(
    run: Callable[..., InnerRun], stage: str, temporary: Path, tidied_by_the_next: Callable[[], None]
) -> None:
    with run("-n2", "-rp", others=2) as parallel:
        worker = blocks(parallel, stage, temporary)
        assert worker != parallel.pid
        its_own = parallel.children(worker)
        os.kill(worker, signal.SIGKILL)
        as_promised(lambda: not set(its_own) & set(parallel.processes()), "its QEMU is gone")
        assert parallel.wait() == pytest.ExitCode.TESTS_FAILED, parallel.output
        parallel.leaves_no_process()
        assert parallel.output.count("PASSED test_blocked.py::test_other") == 2
        assert "crashed while running 'test_blocked.py::test_blocked'" in parallel.output
    tidied_by_the_next()


@pytest.mark.parametrize("stage", ["boot", "test"])
def test_sigkill_of_the_controller_of_xdist_workers(
    run: Callable[..., InnerRun], stage: str, temporary: Path, tidied_by_the_next: Callable[[], None]
) -> None:
    with run("-n2", others=2) as dead:
        blocks(dead, stage, temporary)
        dead.send(signal.SIGKILL)
        dead.wait()
        dead.leaves_no_process()
    tidied_by_the_next()


@pytest.mark.parametrize("stage", ["test"])
def test_control_c_with_xdist_workers(
    run: Callable[..., InnerRun], stage: str, temporary: Path, tidied_by_the_next: Callable[[], None]
) -> None:
    with run("-n2", others=2) as dead:
        blocks(dead, stage, temporary)
        dead.press_control_c()
        assert dead.wait() == pytest.ExitCode.INTERRUPTED, dead.output
        dead.leaves_no_process()
    tidied_by_the_next()
