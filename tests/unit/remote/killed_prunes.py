"""Prunes a copy of a place again and again, each killed by SIGKILL one change later: ``LAYOUT FOLDER``.

Prints the keys that are left each time, all of which can be fetched, until one comes to its end.
"""

import os
import shutil
import signal
import sys
from pathlib import Path

from pytest_readonly_vm.remote.folder_files import FolderFiles
from pytest_readonly_vm.remote.layout import LayoutStore
from pytest_readonly_vm.remote.targets import open_remote


class Mortal(FolderFiles):
    """Kills the process in place of a change, when there were so many."""

    changes = 0

    def _live_or_die(self) -> None:
        if self.changes == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.changes -= 1

    def write(self, path: str, data: bytes) -> None:
        self._live_or_die()
        super().write(path, data)

    def remove(self, path: str) -> None:
        self._live_or_die()
        super().remove(path)


def killed(copy: Path, changes: int) -> bool:
    """Prune a place, and say whether the kill came before the end."""
    pid = os.fork()
    if not pid:
        files = Mortal(copy)
        files.changes = changes
        LayoutStore(files).prune(30 * 24 * 3600)
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def main(layout: Path, folder: Path) -> None:
    is_killed, changes = True, 0
    while is_killed:
        copy = Path(shutil.copytree(layout, folder / str(changes)))
        is_killed = killed(copy, changes)
        with open_remote(copy, unsigned=True) as place:
            for key in place.keys():  # noqa: SIM118
                manifest = place.find(key)
                assert manifest is not None
                (folder / f"{changes}-{key}").mkdir()
                place.fetch(manifest, folder / f"{changes}-{key}")
            print(*place.keys())
        shutil.rmtree(copy)
        changes += 1


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
