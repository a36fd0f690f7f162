"""What the cache has of the same guest is copied, whether it came from elsewhere or was made here."""

from dataclasses import replace
from pathlib import Path

import pytest

from pytest_readonly_vm import RemoteError
from pytest_readonly_vm.remote.parcel import Manifest
from pytest_readonly_vm.remote.remote_cache import RemoteCache
from pytest_readonly_vm.remote.targets import open_remote
from pytest_readonly_vm.start.cache import TemplateCache
from pytest_readonly_vm.start.recipe import Recipe
from pytest_readonly_vm.start.travel import RECIPE, fetch
from tests.unit.remote.parcels import ABOVE, CHANGED, FILES, KEY, parcel
from tests.unit.remote.test_places import found

ONE = Recipe({"layers": ["one"]}, {}, ("qemu", "disk"))
TWO = Recipe({"layers": ["two"]}, {}, ("qemu", "disk"))
OWN = Recipe({"layers": []}, {}, (["/qemu", 1], ["/disk", 2]))
FOREIGN = Recipe({"layers": [], "memory": 16}, {}, (["/qemu", 1], ["/disk", 2]))


@pytest.fixture
def shared(tmp_path: Path) -> tuple[RemoteCache, TemplateCache]:
    """A place with two layers upon the same guest, and an empty cache."""
    place = open_remote(tmp_path / "place")
    place.push(replace(parcel(tmp_path, FILES), facts={RECIPE: ONE.told()}))
    place.push(replace(parcel(tmp_path, CHANGED, key=ABOVE, below=(KEY,)), facts={RECIPE: TWO.told()}))
    return place, TemplateCache(tmp_path / "cache", limit=1 << 30)


def only_what_is_new(place: RemoteCache, folder: Path) -> Manifest:
    """The second layer, of which nothing lies there any more but what the first has not."""
    first, second = found(place), found(place, ABOVE)
    for pack in first.packs:
        (folder / pack.digest.replace("sha256:", "blobs/sha256/")).unlink()
    return second


def test_another_layer_from_elsewhere_is_used(shared: tuple[RemoteCache, TemplateCache], tmp_path: Path) -> None:
    place, cache = shared
    fetch(place, found(place), ONE, cache)
    fetch(place, only_what_is_new(place, tmp_path / "place"), TWO, cache)
    assert len(cache.entries()) == 2


@pytest.mark.parametrize(("recipe", "is_used"), [(OWN, True), (FOREIGN, False)], ids=["the same", "another"])
def test_a_guest_that_was_booted_here_is_used_if_it_is_the_same(
    shared: tuple[RemoteCache, TemplateCache], tmp_path: Path, recipe: Recipe, is_used: bool
) -> None:
    place, cache = shared
    cache.add("c" * 64, parcel(tmp_path / "own", FILES).files, description={}, facts={RECIPE: recipe.told()})
    cache.add("d" * 64, parcel(tmp_path / "bound", FILES).files, description={}, facts={RECIPE: {"bound": "to this"}})
    second = only_what_is_new(place, tmp_path / "place")
    if is_used:
        return fetch(place, second, TWO, cache)
    with pytest.raises(RemoteError, match="is not there"):
        fetch(place, second, TWO, cache)
    return None
