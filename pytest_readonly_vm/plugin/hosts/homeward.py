"""Owns the way of evidence from a worker on another host into the controller's output folder.

In pieces, so that a machine's memory of gigabytes takes none of ours: a slow disk stops the sender. Where it goes is up
to the controller: a host gives the title of a test, and names that evidence can have.
"""

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_readonly_vm.image.output_guard import OutputGuard
from pytest_readonly_vm.plugin.hosts.line import FarLine, LineIsDown
from pytest_readonly_vm.plugin.output_folder import OutputFolder, folder_name

_PIECE = 1 << 18  # bytes
_MOST_FOLDERS = 1000
"""In one folder of a test: it has so many machines at most."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")


class AtHome:
    """The side of a process on the controller's host: what is saved is where it is to be."""

    is_elsewhere = False

    def __init__(self, config: pytest.Config) -> None:
        self.here = Path(config.invocation_params.dir)
        """Where pytest was started, on the controller."""
        self.about: dict[str, str] = {}
        """What is told of evidence beside the test."""

    def bring(self, folders: Iterable[Path]) -> list[str]:
        """Bring what is new in folders of evidence to the controller; return what is to complain of."""
        return []

    def home(self, path: Path) -> Path:
        """Where a file or folder is on the controller, once it has been brought there."""
        return path

    def forget(self, folder: Path) -> None:
        """The folder goes, and another may come in its place."""


class Homeward(AtHome):
    """That of a worker on another host."""

    is_elsewhere = True

    def __init__(self, config: pytest.Config, line: FarLine) -> None:
        super().__init__(config)
        self.here = Path(line.here or "/")
        self.about = {"host": line.host}
        self._line = line
        self._places: dict[Path, Path] = {}
        self._sent: set[Path] = set()
        self._problem: str | None = None
        self._told: set[str] = set()

    @classmethod
    def of(cls, config: pytest.Config) -> "Homeward | None":
        """That of a worker on another host than the controller's; None in all other processes."""
        line = FarLine.of(config)
        return cls(config, line) if line is not None and line.here is not None else None

    def bring(self, folders: Iterable[Path]) -> list[str]:
        try:
            for folder in folders if self._problem is None else ():
                self._bring(folder)
        except LineIsDown as error:
            self._problem = str(error)
        except OSError as error:
            return self._once(f"not all evidence came from {self.about['host']}: {error.strerror or error}")
        return [] if self._problem is None else self._once(f"no evidence of {self.about['host']} came: {self._problem}")

    def _once(self, complaint: str) -> list[str]:
        found = [] if complaint in self._told else [complaint]
        self._told.add(complaint)
        return found

    def _bring(self, folder: Path) -> None:
        """Send what is new in a folder to the controller, to one of that name."""
        if folder not in self._places:
            self._places[folder] = Path(self._accepted(self._line.ask("claim", folder.name)))
        is_piece = pieces()
        for path in sorted(folder.rglob("*")):
            if path.is_file() and is_piece(path.name) and path not in self._sent:
                inner = path.relative_to(folder).parts
                with path.open("rb") as file:
                    for begin in (True, False):
                        content = iter(()) if begin else _read(file)
                        question = ("file", str(self._places[folder]), inner) if begin else ("whole",)
                        self._accepted(self._line.ask_after(content, *question))
                self._sent.add(path)

    def home(self, path: Path) -> Path:
        found = next((folder for folder in self._places if path.is_relative_to(folder)), None)
        return path if found is None else self._places[found] / path.relative_to(found)

    def forget(self, folder: Path) -> None:
        self._told.clear()
        self._places.pop(folder, None)
        self._sent = {path for path in self._sent if not path.is_relative_to(folder)}

    @staticmethod
    def _accepted(answer: Any) -> str:
        is_accepted, words = answer
        if not is_accepted:
            raise OSError(None, f"the controller: {words}")
        return str(words)


def pieces() -> Callable[[str], bool]:
    """What tells by a name whether a file is one of evidence."""
    from pytest_readonly_vm.evidence.collect import PIECES  # which a run that saves nothing is not to pay for
    from pytest_readonly_vm.evidence.networks import NETWORK_PIECE

    return lambda name: name in PIECES or NETWORK_PIECE.fullmatch(name) is not None


def _read(file: Any) -> Iterator[bytes]:
    while piece := file.read(_PIECE):
        yield piece


class Delivery:
    """The controller's side, of one worker. Called on execnet's thread; nothing here raises but `OSError`."""

    def __init__(
        self, output: Path, folders: OutputFolder, guard: OutputGuard, is_piece: Callable[[], Callable[[str], bool]]
    ) -> None:
        """`is_piece` gives what tells whether a name is one of evidence."""
        self._output = output
        self._folders = folders
        self._guard = guard
        self._is_piece = is_piece
        self._claimed: dict[str, Path] = {}
        self._inner: dict[tuple[str, ...], Path] = {}
        self._file: Any = None
        self._open = contextlib.ExitStack()
        self._problem: OSError | None = None

    def claim(self, title: Any) -> str:
        """A folder for an attempt of a test; return its path."""
        folder = self._folders.claim(self._output, folder_name(str(title)[:200]))
        self._claimed[str(folder)] = folder
        return str(folder)

    def has_claimed(self, folder: str) -> bool:
        """Whether a path is one of a folder that was given to the worker, or one in it."""
        path = Path(folder)
        return ".." not in path.parts and any(path.is_relative_to(one) for one in self._claimed.values())

    def begin(self, claimed: Any, inner: Any) -> str:
        """A file is to come."""
        names = tuple(str(name) for name in inner)
        if str(claimed) not in self._claimed or not 1 <= len(names) <= 2 or not all(map(_NAME.fullmatch, names)):
            raise PermissionError(None, "what a host sends is to be evidence, in the folder of its test")
        if not self._is_piece()(names[-1]):
            raise PermissionError(None, f"no file of evidence is called {names[-1]}")
        folder = self._claimed[str(claimed)]
        if len(names) > 1:
            key = (str(claimed), names[0])
            if key not in self._inner:
                if len(self._inner) >= _MOST_FOLDERS * len(self._claimed):
                    raise PermissionError(None, "that are too many folders")
                self._inner[key] = self._folders.within(folder, names[0])
            folder = self._inner[key]
        self.drop()
        self._file = self._open.enter_context(self._guard.file(folder / names[-1]))
        return ""

    def take(self, piece: bytes) -> None:
        """A piece of the file; what goes wrong is told by `finish`."""
        if self._file is not None and self._problem is None:
            try:
                self._file.write(piece)
            except OSError as error:
                self._problem = error

    def finish(self) -> str:
        """The file is whole."""
        if self._file is None:
            raise PermissionError(None, "no file was to come")
        if (problem := self._problem) is not None:
            self.drop()
            raise problem
        self._file = None
        self._open.close()
        return ""

    def drop(self) -> None:
        """What has come of a file is not to be seen, as the rest will not come."""
        self._file = self._problem = None
        with contextlib.suppress(Exception), self._open:
            raise EOFError
