"""A kill in the midst of a transfer leaves nothing that is seen, and what has gone does not go again."""

import signal
import subprocess
import sys
from pathlib import Path

from pytest_readonly_vm.remote.remote_cache import RemoteCache
from pytest_readonly_vm.remote.targets import open_remote
from tests.unit.remote.parcels import KEY, parcel
from tests.unit.remote.pushing import LARGE
from tests.unit.remote.test_places import found


def killed(doing: str, target: str, folder: Path, *, packs: int) -> None:
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tests.unit.remote.pushing", doing, target, str(folder), str(packs)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL


def test_a_push_goes_on(target: str, place: RemoteCache, tmp_path: Path) -> None:
    killed("push", target, tmp_path / "dead", packs=2)
    assert place.keys() == []
    assert place.find(KEY) is None
    sent = place.push(parcel(tmp_path, LARGE))
    assert sent.there > 2 * sent.sent / 4  # two of four packs at least
    (tmp_path / "here").mkdir()
    place.fetch(found(place), tmp_path / "here")
    assert (tmp_path / "here/ram").read_bytes() == LARGE["ram"]


def test_a_fetch_goes_on(tmp_path: Path) -> None:
    with open_remote(tmp_path / "place") as place:
        place.push(parcel(tmp_path, LARGE))
        here = tmp_path / "here"
        killed("fetch", str(tmp_path / "place"), here, packs=2)
        assert all(path.name.startswith(".") for path in here.iterdir())
        steps: list[int] = []
        place.fetch(found(place), here, progress=lambda what, done, of: steps.append(of or 0))
        assert 0 <= steps[0] <= found(place).size * 0.55
        assert {path.name: path.read_bytes() for path in here.iterdir()} == LARGE
