"""Owns the output folder: which folder below it is whose, and the removal of what earlier runs have left.

Only what evidence has written is ever removed, from folders with our mark, and only when the run that the mark names is
over: a run holds a lock on a file there as long as one of its processes lives.
"""

import contextlib
import hashlib
import itertools
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_readonly_vm.host.atomic_file import PARTIAL_SUFFIX
from pytest_readonly_vm.host.locks import Lock, remove_if_unlocked, wait_for_lock
from pytest_readonly_vm.image.output_guard import OutputGuard
from pytest_readonly_vm.plugin.given import given_settings

MARK = ".readonly-vm-evidence"
"""A file in each folder of evidence; it holds the name of the run."""

_LONGEST_NAME = 100
_RUN = ".readonly-vm-run-"
_PATIENCE = 5.0  # seconds
_NAME = re.compile(r"[0-9a-f]{16}")


class OutputFolder:
    """The output folders of one run. Every process of it has one of these, with the same name of the run."""

    def __init__(self, removable: Callable[[], Callable[[str], bool]], run: str, output_guard: OutputGuard) -> None:
        """`removable` gives what tells by a name whether a file is one of evidence; `run` are 16 hexadecimal digits."""
        self.run = run
        self._removable = removable
        self._output_guard = output_guard
        self._locks: dict[Path, Lock | None] = {}
        self._entered: set[Path] = set()

    def enter(self, output: Path) -> None:
        """Before the first machine: remove what runs that are over have left in an output folder, if there is one."""
        if output in self._locks:
            return
        with contextlib.suppress(OSError), _alone_in(output):  # what cannot be removed stays
            is_first = not (output / f"{_RUN}{self.run}").exists()
            self._lock(output)
            if is_first:
                for folder in output.iterdir():
                    if (folder / MARK).is_file() and not self._is_in_use(folder):
                        _clear(folder, self._removable())
                for path in output.glob(f"{_RUN}*"):
                    remove_if_unlocked(path)

    def claim(self, output: Path, name: str) -> Path:
        """A folder for a new attempt of a test, without evidence of another; with a number if the name is taken.

        :raises OSError: it cannot be made.
        """
        output.mkdir(parents=True, exist_ok=True)
        with _alone_in(output):
            self._lock(output)
            names = (f"{name}-{number}" if number > 1 else name for number in itertools.count(1))
            folder = next(output / name for name in names if not self._is_in_use(output / name))
            if (folder / MARK).exists():
                _clear(folder, self._removable())
            folder.mkdir(exist_ok=True)
            self._mark(folder)
        return folder

    def within(self, folder: Path, name: str) -> Path:
        """A folder for one of several machines, in one that was claimed.

        :raises OSError: it cannot be made.
        """
        for number in itertools.count(1):
            inner = folder / (f"{name}-{number}" if number > 1 else name)
            if not inner.exists():
                break
        inner.mkdir()
        self._mark(inner)
        return inner

    def _mark(self, folder: Path) -> None:
        with self._output_guard.file(folder / MARK) as file:
            file.write(self.run.encode())

    def hold(self, output: Path) -> None:
        """Keep others from removing what another process of this run has saved."""
        with contextlib.suppress(OSError), _alone_in(output):
            self._lock(output)

    def give_back(self, folder: Path) -> None:
        """Remove what was saved in a claimed folder: nobody needs it."""
        _clear(folder, self._removable())

    def remove_empty(self) -> None:
        """After `close`: remove the output folders that this process was the last to use, and in which nothing is."""
        for output in self._entered:
            with contextlib.suppress(OSError):
                output.rmdir()

    def close(self) -> None:
        """Let others remove what this run has left; the last of its processes removes its file."""
        for output, lock in self._locks.items():
            if lock is not None:
                lock.release()
            with _alone_in(output):
                remove_if_unlocked(output / f"{_RUN}{self.run}")
        self._locks.clear()

    def _lock(self, output: Path) -> None:
        """:raises FileNotFoundError: there is no such folder yet."""
        self._entered.add(output)
        if output not in self._locks:
            lock = None
            try:
                path = output / f"{_RUN}{self.run}"
                lock = wait_for_lock(path, make=0o644, shared=True, patience=_PATIENCE)
            except FileNotFoundError:
                raise
            except OSError:  # a file system without locks, so that others take it for in use
                pass
            self._locks[output] = lock

    def _is_in_use(self, folder: Path) -> bool:
        """Whether the run that wrote to a folder is this one, or another that is not over."""
        try:
            run = (folder / MARK).read_text()
        except OSError:
            return False
        if not _NAME.fullmatch(run):
            return False
        return run == self.run or not remove_if_unlocked(folder.parent / f"{_RUN}{run}")


@contextlib.contextmanager
def _alone_in(output: Path) -> Iterator[None]:
    """Keep all other processes from looking for folders in an output folder meanwhile. It takes them milliseconds.

    Not one that stands still with the lock, nor those on a file system without locks.
    """
    lock = None
    with contextlib.suppress(OSError):
        lock = wait_for_lock(output.resolve(), patience=_PATIENCE)
    with lock or contextlib.nullcontext():
        yield


def _clear(folder: Path, is_ours: Callable[[str], bool]) -> None:
    """Remove evidence from a folder and from folders of machines in it, and those that are empty then."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            if (path / MARK).is_file():
                _clear(path, is_ours)
        elif is_ours(path.name) or (path.name.startswith(".") and path.name.endswith(PARTIAL_SUFFIX)):
            path.unlink()
    (folder / MARK).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # somebody else has something there
        folder.rmdir()


def folder_name(text: str) -> str:
    """A text, such as a node id, as the name of a file: safe, bounded, and different for different texts."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-.") or "_"
    if name == text:
        return name
    return f"{name[:_LONGEST_NAME]}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def check_output(config: pytest.Config, output_guard: OutputGuard) -> None:
    """:raises pytest.UsageError: what is to be the output folder is a file."""
    given = given_settings(config).get("output")
    if given is None or not isinstance(given.value, Path):
        return
    with contextlib.suppress(OSError):  # what cannot be had is told when something is to be written
        if not stat.S_ISDIR(given.value.stat().st_mode):
            why = output_guard.why_not(given.value) or "it is a file"
            raise pytest.UsageError(f"{given.origin}: {given.value}: {why}; nothing was written; choose a folder")
