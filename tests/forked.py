"""Owns pytest runs in processes of their own that begin where all imports have been made.

Half of the time of a short run goes to imports. Here one process makes them, and each run is a fork of it: with the
folder, the environment and the streams of its own, and nothing of another run in it, as that process runs none itself.
"""

import contextlib
import gc
import importlib
import json
import os
import pkgutil
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NoReturn, TextIO

import pytest

import pytest_readonly_vm
from tests.qemu.waiting import GENEROUS

UNNEEDED = ("cacheprovider", "asyncio", "anyio", "html", "metadata", "allure_pytest", "rerunfailures")


def plain(*needed: str) -> tuple[str, ...]:
    """Options that keep a run free of plugins that it does not need, which take time to load."""
    return tuple(word for name in UNNEEDED if name not in needed for word in ("-p", f"no:{name}"))


PLAIN = plain()

_MESSAGE = 1 << 17  # bytes that a request may have; an environment has a few thousand


class Forks:
    """Runs of pytest, one at a time; the process that they are forked from ends with `close`, or with its parent."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None

    def run(
        self, pytester: pytest.Pytester, *arguments: str | os.PathLike[str], timeout: float = 4 * GENEROUS
    ) -> pytest.RunResult:
        """What `Pytester.runpytest_subprocess` does.

        :raises pytest.Pytester.TimeoutExpired: the run has taken more than `timeout` seconds and was killed.
        """
        folder = Path(tempfile.mkdtemp(prefix="runpytest-", dir=pytester.path))
        words = [f"--basetemp={folder}", *(os.fspath(argument) for argument in arguments)]
        print("running: pytest", *words)
        began = time.monotonic()
        paths = (pytester.path / "stdout", pytester.path / "stderr")
        with paths[0].open("w") as output, paths[1].open("w") as errors:
            status, is_late = self._fork(words, output, errors, timeout)
        seconds = time.monotonic() - began
        said, complained = (path.read_text(encoding="utf-8").splitlines() for path in paths)
        print("\n".join(said))
        print("\n".join(complained), file=sys.stderr)
        if is_late:
            raise pytest.Pytester.TimeoutExpired(f"{timeout:g} s have not been enough for pytest {words}")
        with contextlib.suppress(ValueError):
            status = pytest.ExitCode(status)
        return pytest.RunResult(status, said, complained, seconds)

    def close(self) -> None:
        if self._socket:
            self._socket.close()
        if self._process:
            self._process.wait()
        self._process = self._socket = None

    def _fork(self, arguments: list[str], output: TextIO, errors: TextIO, timeout: float) -> tuple[int, bool]:
        """The status of the run, negative for the signal that has ended it, and whether it was killed for its time."""
        connection = self._connected()
        request = {"arguments": arguments, "environment": dict(os.environ), "folder": str(Path.cwd())}
        socket.send_fds(connection, [json.dumps(request).encode()], [output.fileno(), errors.fileno()])
        pid = _number(connection)
        connection.settimeout(timeout)  # without the time that all imports take, which are made for the first one
        try:
            return _number(connection), False
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
            connection.settimeout(None)
            return _number(connection), True
        except BaseException:  # whoever waits does so no longer: no other run may get this one's answer
            os.kill(pid, signal.SIGKILL)
            self.close()
            raise

    def _connected(self) -> socket.socket:
        if self._socket is None:
            self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            command = [sys.executable, "-m", __name__, str(other.fileno())]
            self._process = subprocess.Popen(
                command, pass_fds=[other.fileno()], stdin=subprocess.DEVNULL, cwd=Path(__file__).parent.parent
            )
            other.close()
        self._socket.settimeout(None)
        return self._socket


def _number(connection: socket.socket) -> int:
    """What the process that runs are forked from says next."""
    if not (message := connection.recv(_MESSAGE)):
        raise EOFError("the process that runs of pytest are forked from has ended")
    return int(message)


def _import_all() -> None:
    """Import what runs need; the plugins in pytest's own way, in which their assertions are rewritten."""
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        pytest.main(["--version", "--version", "--noconftest", "-c", os.devnull, *PLAIN])
    for module in pkgutil.walk_packages(pytest_readonly_vm.__path__, f"{pytest_readonly_vm.__name__}."):
        importlib.import_module(module.name)
    gc.collect()
    gc.freeze()  # what no run can free: to look at it takes each one a twentieth of a second, and copies of its memory


def _serve(connection: socket.socket) -> None:
    while True:
        message, descriptors, _, _ = socket.recv_fds(connection, _MESSAGE, 2)
        if not message:
            return
        if (pid := os.fork()) == 0:
            connection.close()
            _become_a_run(json.loads(message), descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        connection.send(b"%d" % pid)
        _, status = os.waitpid(pid, 0)
        with contextlib.suppress(BrokenPipeError):
            connection.send(b"%d" % os.waitstatus_to_exitcode(status))


def _become_a_run(request: dict[str, Any], descriptors: list[int]) -> NoReturn:
    """What a new interpreter would be for ``python -m pytest``, with the folder importable as pytester has it."""
    for number, descriptor in enumerate(descriptors, start=1):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    importable = [request["folder"], *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    os.environ["PYTHONPATH"] = os.pathsep.join(importable)
    sys.path[:1] = importable
    sys.argv[1:] = request["arguments"]
    for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        del sys.modules[name]  # a project may have its own
    tempfile.tempdir = None  # else it is that of the environment before
    runpy.run_module("pytest", run_name="__main__", alter_sys=True)
    raise AssertionError("python -m pytest always exits")


if __name__ == "__main__":
    _import_all()
    with socket.socket(fileno=int(sys.argv[1])) as its_end:
        _serve(its_end)
