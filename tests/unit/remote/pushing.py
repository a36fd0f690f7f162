"""A process that is killed in the midst of a transfer: ``push|fetch|pull TARGET FOLDER N``; pulled is into a cache.

By SIGKILL, when so many packs have gone.
"""

import os
import signal
import sys
from pathlib import Path

from pytest_readonly_vm.host.entries import portable
from pytest_readonly_vm.remote.parcel import Manifest
from pytest_readonly_vm.remote.remote_cache import Progress, RemoteCache
from pytest_readonly_vm.remote.targets import open_remote
from pytest_readonly_vm.start.cache import TemplateCache
from tests.unit.remote.parcels import KEY, memory, parcel

LARGE = {"ram": memory(7, blocks=3500, every=2), "state": b"devices"}
"""Of four packs."""


def pull(place: RemoteCache, manifest: Manifest, folder: Path, progress: Progress) -> None:
    """As the command and the plugin do it, but for the recipe, which no guest of the tests of places has."""
    TemplateCache(folder, limit=1 << 30).fetch(
        portable(manifest.key),
        lambda half: place.fetch(manifest, half, progress=progress),
        content=manifest.digest[-16:],
        size=manifest.data,
        description={},
        facts={},
    )


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
            if doing == "pull":
                pull(place, manifest, folder, progress)
            place.fetch(manifest, folder, progress=progress)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
