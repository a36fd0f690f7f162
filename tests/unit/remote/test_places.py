"""What is pushed to a place is what is fetched from it, and costs what is new of it, whatever place it is."""

import json
import shutil
from pathlib import Path

import pytest

from pytest_readonly_vm import RemoteError
from pytest_readonly_vm.remote.parcel import Manifest
from pytest_readonly_vm.remote.remote_cache import RemoteCache
from pytest_readonly_vm.remote.targets import open_remote
from tests.unit.remote.parcels import ABOVE, CHANGED, FILES, KEY, parcel
from tests.web_server import Site


def found(place: RemoteCache, key: str = KEY) -> Manifest:
    manifest = place.find(key)
    assert manifest is not None
    return manifest


def fetched(place: RemoteCache, folder: Path, key: str = KEY, near: tuple[Path, ...] = ()) -> dict[str, bytes]:
    folder.mkdir()
    place.fetch(found(place, key), folder, near=near)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_parcel_travels(place: RemoteCache, tmp_path: Path) -> None:
    assert place.find(KEY) is None
    assert place.keys() == []
    sent = place.push(parcel(tmp_path, FILES))
    manifest = found(place)
    assert manifest.facts == {"ready_after": 1.5}
    assert manifest.sizes == {name: len(content) for name, content in FILES.items()}
    assert sent.there == 0
    assert manifest.size < sent.sent < manifest.size + 60_000
    assert fetched(place, tmp_path / "here") == FILES
    ram = (tmp_path / "here" / "ram").stat()
    assert ram.st_blocks * 512 < ram.st_size / 2  # the holes are holes
    assert ram.st_mode & 0o777 == 0o400
    assert place.keys() == [KEY]
    assert manifest.description["image"] == "debian.qcow2"
    assert place.push(parcel(tmp_path / "again", FILES)).sent == 0


def test_a_layer_costs_its_difference(place: RemoteCache, tmp_path: Path) -> None:
    whole = place.push(parcel(tmp_path, FILES)).sent
    layer = place.push(parcel(tmp_path, CHANGED, key=ABOVE, below=(KEY,)))
    assert layer.sent < whole / 20
    assert layer.there > whole * 0.9
    assert fetched(place, tmp_path / "here", ABOVE) == CHANGED
    assert fetched(place, tmp_path / "below") == FILES
    assert len(place.keys()) == 2


def test_what_is_here_of_another_guest_is_not_fetched(tmp_path: Path) -> None:
    with open_remote(tmp_path / "place") as place:
        place.push(parcel(tmp_path, FILES))
        place.push(parcel(tmp_path, CHANGED, key=ABOVE, below=(KEY,)))
        fetched(place, tmp_path / "below")
        new = {pack.digest for pack in found(place, ABOVE).packs} - {pack.digest for pack in found(place).packs}
        for blob in (tmp_path / "place/blobs/sha256").iterdir():
            if blob.stat().st_size > 1 << 20 and f"sha256:{blob.name}" not in new:
                blob.unlink()
        assert fetched(place, tmp_path / "here", ABOVE, near=(tmp_path / "gone", tmp_path / "below")) == CHANGED


def test_a_pack_of_little_use_is_not_built_upon(tmp_path: Path) -> None:
    with open_remote(tmp_path / "place") as place:
        place.push(parcel(tmp_path, FILES))
        few = {"ram": FILES["ram"][: 1 << 16]}
        place.push(parcel(tmp_path, few, key=ABOVE, below=(KEY,)))
        assert found(place, ABOVE).size < 1 << 17
        assert fetched(place, tmp_path / "here", ABOVE) == few


def test_a_folder_is_an_image_layout_that_copies(tmp_path: Path) -> None:
    with open_remote(tmp_path / "place") as place:
        place.push(parcel(tmp_path, FILES))
        place.push(parcel(tmp_path, CHANGED, key=ABOVE, below=(KEY,)))
    layout = tmp_path / "place"
    assert layout.stat().st_mode & 0o777 == 0o700
    index = json.loads((layout / "index.json").read_text())
    names = {one["annotations"]["org.opencontainers.image.ref.name"]: one for one in index["manifests"]}
    assert set(names) == {KEY, ABOVE}
    manifest = json.loads((layout / names[KEY]["digest"].replace("sha256:", "blobs/sha256/")).read_text())
    for one in (manifest["config"], *manifest["layers"]):
        assert (layout / one["digest"].replace("sha256:", "blobs/sha256/")).stat().st_size == one["size"]
    shutil.copytree(layout, tmp_path / "copy")
    with open_remote(tmp_path / "copy") as copy:
        assert fetched(copy, tmp_path / "here") == FILES


def test_a_folder_behind_a_web_server_is_read(server: Site, tmp_path: Path) -> None:
    with open_remote(tmp_path / "place") as place:
        place.push(parcel(tmp_path, FILES))
    for path in (tmp_path / "place").rglob("*"):
        if path.is_file():
            server.put(f"frozen/{path.relative_to(tmp_path / 'place')}", path.read_bytes())
    with open_remote(f"{server.url}/frozen", unsigned=True) as web:
        assert web.keys() == [KEY]
        assert fetched(web, tmp_path / "here") == FILES
        with pytest.raises(RemoteError, match="for reading alone"):
            web.push(parcel(tmp_path, CHANGED, key=ABOVE))


def test_what_was_damaged_is_pushed_anew(tmp_path: Path) -> None:
    with open_remote(tmp_path / "place") as place:
        place.push(parcel(tmp_path, FILES))
        digest = found(place).packs[0].digest
        (tmp_path / "place" / digest.replace("sha256:", "blobs/sha256/")).unlink()
        assert place.push(parcel(tmp_path / "again", FILES)).sent > 0
        assert fetched(place, tmp_path / "here") == FILES
