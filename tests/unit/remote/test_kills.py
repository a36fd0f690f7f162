"""A kill in the midst of a transfer leaves nothing that is seen, and what has gone does not go again."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pytest_readonly_vm.host.entries import portable
from pytest_readonly_vm.remote.remote_cache import RemoteCache
from pytest_readonly_vm.remote.targets import open_remote
from pytest_readonly_vm.start.cache import TemplateCache
from tests.unit.remote.parcels import BLOCK, FILES, KEY, parcel
from tests.unit.remote.pushing import LARGE, pull
from tests.unit.remote.test_places import found


def killed(doing: str, target: str, folder: Path, *, packs: int) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
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


def halves(cache: Path) -> list[Path]:
    return sorted(cache.glob(".half-*"))


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a place, and a cache in which a killed process has left half of the parcel there."""
    folder = tmp_path_factory.mktemp("cut")
    with open_remote(folder / "place") as place:
        place.push(parcel(folder, LARGE))
    killed("pull", str(folder / "place"), folder / "cache", packs=2)
    return folder


@pytest.fixture
def cut_off(cut: Path, tmp_path: Path) -> Path:
    """A copy of that cache, beside one of the place."""
    shutil.copytree(cut / "place", tmp_path / "place")
    return Path(shutil.copytree(cut / "cache", tmp_path / "cache"))


def wanted(tmp_path: Path, cache: Path) -> tuple[float, dict[str, bytes]]:
    """What is pulled: the share of it that was fetched, and the files."""
    steps: list[int] = []
    with open_remote(tmp_path / "place") as place:
        pull(place, found(place), cache, lambda what, done, of: steps.append(of or 0))
        size = found(place).size
    names = [path for path in (cache / portable(KEY)).iterdir() if path.name != "manifest.json"]
    return steps[0] / size, {path.name: path.read_bytes() for path in names}


def test_the_next_pull_goes_on_and_nothing_is_left(cut_off: Path, tmp_path: Path) -> None:
    [half] = halves(cut_off)
    assert TemplateCache(cut_off, limit=1 << 30).entries() == []
    [ram] = half.glob(".*-ram")
    with ram.open("r+b") as file:  # what was not written to its end
        file.write(b"x" * BLOCK)
        file.seek(BLOCK + 100)
        file.write(b"where nothing is")
    share, files = wanted(tmp_path, cut_off)
    assert 0 < share < 0.8
    assert files == LARGE
    assert [path.name for path in cut_off.iterdir()] == [portable(KEY)]


def test_a_kill_when_all_has_come_costs_nothing(tmp_path: Path) -> None:
    with open_remote(tmp_path / "place") as place:
        place.push(parcel(tmp_path, FILES))
        here = tmp_path / "here"
        here.mkdir()
        place.fetch(found(place), here)
        steps: list[int] = []
        place.fetch(found(place), here, progress=lambda what, done, of: steps.append(of or 0))
        assert steps == [0]
        assert {path.name: path.read_bytes() for path in here.iterdir()} == FILES
        assert {path.stat().st_mode & 0o777 for path in here.iterdir()} == {0o400}


def test_what_nobody_goes_on_with_is_tidied_up(cut_off: Path, tmp_path: Path) -> None:
    TemplateCache(cut_off, limit=1 << 30)
    [half] = halves(cut_off)
    for age in (-100_000, 100_000):
        half.mkdir(exist_ok=True)
        os.utime(half, (time.time() - age,) * 2)
        TemplateCache(cut_off, limit=1 << 30)
        assert halves(cut_off) == []
    half.mkdir()
    TemplateCache(cut_off, limit=1 << 30).clear_halves()
    assert halves(cut_off) == []
    half.mkdir()
    (cut_off / portable(KEY)).mkdir()  # it came another way
    TemplateCache(cut_off, limit=1 << 30)
    assert halves(cut_off) == []


def test_two_that_fetch_the_same_at_once_do_no_harm(cut_off: Path, tmp_path: Path) -> None:
    seen: list[list[Path]] = []
    with open_remote(tmp_path / "place") as place:

        def meanwhile(what: str, done: int, of: int | None) -> None:
            if not seen:
                TemplateCache(cut_off, limit=1 << 30)  # which sweeps
                seen.append(halves(cut_off))
                assert wanted(tmp_path, cut_off) == (1.0, LARGE)

        pull(place, found(place), cut_off, meanwhile)
    assert len(seen[0]) == 1
    assert halves(cut_off) == []
