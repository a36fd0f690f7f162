"""What nobody has pushed for long goes from a place, and all that is left there stays whole, whatever else is done."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pytest_readonly_vm import RemoteError
from pytest_readonly_vm.cli import main
from pytest_readonly_vm.remote import pruning
from pytest_readonly_vm.remote.remote_cache import RemoteCache
from pytest_readonly_vm.remote.targets import open_remote
from tests.registry import Registry
from tests.unit.remote.parcels import ABOVE, CHANGED, FILES, KEY, memory, parcel
from tests.unit.remote.test_places import fetched, found
from tests.web_server import Site

DAY = 24 * 3600
ALL = -10.0
"""An age that even what was pushed just now has, by clocks that count in seconds."""


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """A folder with a guest, and a layer upon it."""
    with open_remote(tmp_path / "place") as place:
        place.push(parcel(tmp_path, FILES))
        place.push(parcel(tmp_path, CHANGED, key=ABOVE, below=(KEY,)))
    return tmp_path / "place"


def age(layout: Path, days: float, *names: str) -> None:
    """Have files, or all, be as old."""
    for path in layout.rglob("*"):
        if path.is_file() and (not names or path.name in names):
            os.utime(path, (time.time() - days * DAY,) * 2)


def blobs(layout: Path) -> set[str]:
    return {path.name for path in (layout / "blobs/sha256").iterdir()}


def test_what_nobody_pushed_goes_and_its_blobs_a_day_later(
    target: str, place: RemoteCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.push(parcel(tmp_path, FILES))
    if target.startswith("oci:"):
        with pytest.raises(RemoteError, match="garbage collection"):
            place.prune(ALL)
        return
    manifest = found(place)
    pruned = place.prune(DAY)
    assert (pruned.keys, pruned.kept, pruned.freed, pruned.later) == ({}, 1, 0, 0)
    pruned = place.prune(ALL)
    assert (set(pruned.keys), pruned.kept, pruned.freed) == ({KEY}, 0, 0)
    assert pruned.later > manifest.size
    assert place.keys() == []
    (tmp_path / "here").mkdir()
    place.fetch(manifest, tmp_path / "here")  # of one that was about to
    monkeypatch.setattr(pruning, "GRACE", ALL)
    pruned = place.prune(DAY)
    assert pruned.freed > manifest.size
    with pytest.raises(RemoteError, match="no frozen guests; nothing is removed"):
        place.prune(DAY)
    (tmp_path / "later").mkdir()
    with pytest.raises(RemoteError, match="is not there"):
        place.fetch(manifest, tmp_path / "later")
    assert place.push(parcel(tmp_path / "anew", FILES)).there == 0


def test_a_push_of_what_is_there_counts(layout: Path, tmp_path: Path) -> None:
    age(layout, 40)
    with open_remote(layout) as place:
        assert place.push(parcel(tmp_path / "again", CHANGED, key=ABOVE)).sent == 0
        assert set(place.prune(30 * DAY).keys) == {KEY}
        assert place.keys() == [ABOVE]


def test_what_is_left_stays_whole_and_what_it_does_not_need_goes(layout: Path, tmp_path: Path) -> None:
    with open_remote(layout) as place:
        first, second = found(place), found(place, ABOVE)
        age(layout, 40, f"{KEY}.json")
        assert set(place.prune(30 * DAY).keys) == {KEY}
        age(layout, 2)
        before = blobs(layout)
        assert place.prune(30 * DAY).freed > 0
        gone = {f"sha256:{name}" for name in before - blobs(layout)}
        assert first.digest in gone
        assert not gone & {pack.digest for pack in second.packs}
        assert fetched(place, tmp_path / "here", ABOVE) == CHANGED
    index = json.loads((layout / "index.json").read_text())
    assert [one["annotations"]["org.opencontainers.image.ref.name"] for one in index["manifests"]] == [ABOVE]


def test_a_push_that_builds_upon_what_goes_meanwhile_is_whole(tmp_path: Path) -> None:
    layout = tmp_path / "place"
    with open_remote(layout) as place, open_remote(layout) as other:
        place.push(parcel(tmp_path, FILES))
        first = {pack.digest for pack in found(place).packs}
        age(layout, 40)
        gone: list[str] = []
        sent = place.push(
            parcel(tmp_path, CHANGED, key=ABOVE, below=(KEY,)),
            progress=lambda what, done, of: gone.extend(other.prune(30 * DAY).keys),
        )
        assert gone == [KEY]
        assert sent.there > sent.sent
        assert first & {pack.digest for pack in found(place, ABOVE).packs}
        age(layout, 2)
        other.prune(30 * DAY)
        assert fetched(place, tmp_path / "here", ABOVE) == CHANGED


def test_a_push_puts_there_anew_what_may_go_soon(layout: Path, tmp_path: Path) -> None:
    for path in (layout / "keys").iterdir():
        path.unlink()
    age(layout, 0.6)
    with open_remote(layout) as place:
        place.push(parcel(tmp_path / "again", FILES))
        age(layout, 0.7, *(f"{key}.json" for key in (KEY, ABOVE)))
        parts = [pack.digest.rpartition(":")[2] for pack in found(place).packs]
    assert all((layout / "blobs/sha256" / name).stat().st_mtime > time.time() - DAY / 4 for name in parts)


def test_nothing_of_others_goes(layout: Path, tmp_path: Path) -> None:
    foreign = [layout / name for name in ("notes.txt", "keys/readme.json", "blobs/sha256/readme", "blobs/other")]
    for path in (*foreign, layout / f"blobs/sha256/.{'0' * 16}.partial"):
        path.write_text("not ours")
    age(layout, 2)
    with open_remote(layout) as place:
        place.prune(DAY)
        age(layout, 2)
        place.prune(DAY)
    assert all(path.exists() for path in foreign)
    assert not list(layout.rglob("*.partial"))


def test_an_image_of_others_is_kept_and_forbids_it(layout: Path, tmp_path: Path) -> None:
    other = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": f"sha256:{'7' * 64}", "size": 7}
    index = json.loads((layout / "index.json").read_text())
    index["manifests"].append(other)
    (layout / "index.json").write_text(json.dumps(index))
    age(layout, 40)
    before = sorted(layout.rglob("*"))
    with open_remote(layout) as place:
        with pytest.raises(RemoteError, match=r"has images of others as well.*77777"):
            place.prune(DAY)
        assert sorted(layout.rglob("*")) == before
        place.push(parcel(tmp_path / "third", FILES, key="c" * 64))
    assert other in json.loads((layout / "index.json").read_text())["manifests"]


def test_what_is_damaged_stops_it_before_a_blob_goes(layout: Path) -> None:
    age(layout, 40)
    (layout / f"keys/{KEY}.json").write_text("{}")
    before = blobs(layout)
    with open_remote(layout) as place, pytest.raises(RemoteError, match=f"keys/{KEY}.json is damaged.*no blob"):
        place.prune(DAY)
    assert blobs(layout) == before


def test_a_kill_at_any_moment_leaves_what_is_there_whole(layout: Path, tmp_path: Path) -> None:
    with open_remote(layout) as place:
        place.push(parcel(tmp_path / "third", {"ram": memory(3)}, key="c" * 64))
        age(layout, 40, f"{'c' * 64}.json")
        place.prune(30 * DAY)
    age(layout, 2)
    age(layout, 40, f"{KEY}.json")  # the one is let go of, and the other's blobs go
    command = [sys.executable, "-m", "tests.unit.remote.killed_prunes", str(layout), str(tmp_path / "copies")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    moments = [line.split() for line in done.stdout.splitlines()]
    assert len(moments) > 8
    assert moments[0] == [KEY, ABOVE]
    assert all(ABOVE in moment for moment in moments)
    assert moments[-1] == [ABOVE]


def test_a_web_server_is_for_reading(layout: Path, server: Site) -> None:
    with open_remote(server.url, unsigned=True) as place, pytest.raises(RemoteError, match="for reading alone"):
        place.prune(DAY)


def test_the_command_says_what_went(layout: Path, capsys: pytest.CaptureFixture[str], shelf: Registry) -> None:
    age(layout, 41, f"{KEY}.json")
    assert main(["cache", "prune", str(layout)]) == 0
    said = capsys.readouterr().out
    assert f"{KEY[:12]} removed, last pushed 41 days ago\n" in said
    assert f"removed 1 template from {layout}, freed 0.0 MiB; 1 template left\n" in said
    assert "MiB more are freed by a prune in a day" in said
    assert main(["cache", "prune", str(layout), "--days=0"]) == 0
    assert "no templates left" in capsys.readouterr().out
    assert main(["cache", "prune", f"oci://{shelf.host}/team/nothing"]) == 1
    assert "garbage collection" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["cache", "prune", str(layout), "--days=-1"])
