"""A process that pushes a parcel, or fetches it, and is killed in the midst: ``push|fetch TARGET FOLDER N``.

By SIGKILL, when so many packs have gone.
"""

import os
import signal
import sys
from pathlib import Path

from pytest_readonly_vm.remote.targets import open_remote
from tests.unit.remote.parcels import KEY, memory, parcel

LARGE = {"ram": memory(7, blocks=3500, every=2), "state": b"devices"}
"""Of four packs."""


def main(doing: str, target: str, folder: Path, packs: int) -> None:
    """Never returns."""
    gone = -1

    def progress(what: str, done: int, of: int | None) -> None:
        nonlocal gone
        gone += 1
        if gone == packs:
            os.kill(os.getpid(), signal.SIGKILL)

    with open_remote(target, unsigned=True) as place:
        if doing == "push":
            place.push(parcel(folder, LARGE), progress=progress)
        elif (manifest := place.find(KEY)) is not None:
            place.fetch(manifest, folder, progress=progress)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
