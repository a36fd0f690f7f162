"""Which frozen guest may have most in common with another is known without a look at files."""

from pytest_readonly_vm.start.recipe import Recipe


def recipe(*layers: str, files: tuple[object, ...] = ("qemu", "disk"), **more: str) -> Recipe:
    return Recipe({"settings": {"memory": 16}, "layers": list(layers), **more}, {"CPU model": "max"}, files)


def test_the_nearest_is_of_the_same_files_shares_most_layers_and_has_least_beyond() -> None:
    wanted = recipe("one", "two")
    in_order = [
        recipe("one", "two", cluster="formed"),
        recipe("one"),
        recipe("one", "other"),
        recipe(),
        recipe("other"),
        recipe("one", files=(["/qemu", 1], ["/disk", 2])),  # of this computer, not read yet
        recipe(files=(["/qemu", 1], ["/disk", 2])),
    ]
    found = [wanted.likeness(one) for one in in_order]
    assert found == sorted((one for one in found if one is not None), reverse=True)
    assert wanted.likeness(recipe("one", files=("qemu", "another disk"))) is None
    assert wanted.likeness(recipe("one", boot="other")) is None
    assert wanted.likeness(recipe("one", files=("another qemu", "disk"))) == wanted.likeness(recipe("one"))
