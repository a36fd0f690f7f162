"""Owns pytest runs in a process of their own, with the plugins that a benchmark names and no others."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, Self

from benchmarks import processor

PLUGIN = "pytest_readonly_vm.plugin"
"""What the entry point ``readonly_vm`` loads."""


class Cost(NamedTuple):
    """Seconds of one process, on the wall and of a processor's time (user and system), its children's included."""

    wall: float
    processor: float


class Sessions:
    """Runs of Python in a folder of their own, with bytecode cached as it is for a user. A context manager."""

    def __init__(self, *, installed: Path | None = None) -> None:
        """:param installed: the Python of an environment, with all plugins that are there; else this one, with none."""
        self._folder = TemporaryDirectory()
        self.folder = Path(self._folder.name)
        """Where they run; an empty ini file makes it pytest's root."""
        (self.folder / "pytest.ini").write_text("[pytest]\n")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST"))}
        self._python = installed or sys.executable
        self._environment = (
            kept
            if installed
            else {
                **kept,
                "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
                "PYTHONPATH": str(Path(__file__).parent.parent),
                "PYTHONPYCACHEPREFIX": str(self.folder / "bytecode"),
            }
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def python(self, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run Python to its end.

        :raises RuntimeError: it failed; the message has what it printed.
        """
        done = subprocess.run(
            [self._python, *arguments],
            cwd=self.folder,
            env={**self._environment, **(env or {})},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{arguments} failed:\n{done.stdout}{done.stderr}")
        return done

    def cost(self, *arguments: str, env: Mapping[str, str] | None = None) -> Cost:
        """Run Python and say what that cost."""
        before, started = processor.of_ended(), time.perf_counter()
        self.python(*arguments, env=env)
        return Cost(time.perf_counter() - started, processor.of_ended() - before)


def pytest_arguments(plugins: Sequence[str], *others: str) -> tuple[str, ...]:
    """Arguments for Python to run pytest quietly with these plugins, named by their modules."""
    named = [word for plugin in plugins for word in ("-p", plugin)]
    return ("-m", "pytest", "-q", "-p", "no:cacheprovider", *named, *others)
