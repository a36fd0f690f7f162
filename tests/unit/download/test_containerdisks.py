"""The disk of a containerdisk is that of the last layer that has one."""

import importlib
import resource
import sys
from collections.abc import Callable

import pytest

from tests.registry import LAYER, Registry, layer, packed
from tests.sparse_member import sparse_member
from tests.unit.download.images import DISK, OTHER, REPEATED, Images


def zstd(tar: bytes) -> bytes:
    module = importlib.import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    found: bytes = module.compress(tar)
    return found


@pytest.mark.parametrize("pack", [packed, zstd, bytes], ids=["gzip", "zstd", "not packed"])
@pytest.mark.parametrize("name", ["disk/x.qcow2", "/disk/disk.img", "./disk/x"])
def test_the_disk_of_a_containerdisk_comes(
    shelf: Registry, images: Images, pack: Callable[[bytes], bytes], name: str
) -> None:
    content = layer({"etc/passwd": b"root", name: DISK, "disk/sub/other": b"no", "disk/.keep": b""})
    shelf.artefact("one", shelf.blob(pack(content), LAYER))
    assert images.get(":one") == DISK
    assert images.warned == []


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([{"disk/a": OTHER}, {"disk/a": DISK}], DISK),
        ([{"disk/a": OTHER}, {"disk/b": DISK}], DISK),
        ([{"disk/a": DISK}, {"etc/label": b"later"}], DISK),
        ([{"disk/a": DISK}, {"disk/b": OTHER}, {"disk/.wh.b": b""}], DISK),
        ([{"disk/a": OTHER}, {".wh.disk": b"", "disk/b": DISK}], DISK),
    ],
    ids=["the same name", "another name", "nothing after it", "one removed", "all replaced"],
)
def test_the_last_layer_with_a_disk_counts(
    shelf: Registry, images: Images, layers: list[dict[str, bytes]], expected: bytes
) -> None:
    shelf.artefact("layers", *(shelf.blob(packed(layer(one)), LAYER) for one in layers))
    assert images.get(":layers") == expected


@pytest.mark.parametrize(
    ("layers", "sentence"),
    [
        ([{"etc/passwd": b""}], "has no disk: there is no file in the folder /disk of any of its layers"),
        ([{"disk/a": DISK}, {"disk/.wh..wh..opq": b""}], "has no disk: there is no file in the folder /disk"),
        ([{"disk/a": DISK}, {".wh.disk": b""}], "has no disk: there is no file in the folder /disk"),
        ([{"disk/a": DISK}, {"disk/.wh.a": b""}], "has no disk: there is no file in the folder /disk"),
        ([{"disk/b": DISK, "disk/a": OTHER}], "several disks, and which one is meant cannot be told: disk/a, disk/b"),
    ],
    ids=["no disk", "removed by an opaque folder", "folder removed", "removed", "two"],
)
def test_without_one_disk_it_is_a_sentence(
    shelf: Registry, images: Images, layers: list[dict[str, bytes]], sentence: str
) -> None:
    shelf.artefact("without", *(shelf.blob(packed(layer(one)), LAYER) for one in layers))
    assert sentence in images.refused(":without")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (packed(layer({}, links=["disk/a"])), "has a symbolic link in the place of its disk, disk/a"),
        (packed(layer({"disk/a": DISK}))[:-1000], "is truncated: it ends within what gzip has packed"),
        (layer({"disk/a": DISK})[: 1 << 17], "is damaged or truncated, tar finds:"),
        (b"no archive at all", "is damaged or truncated, tar finds:"),
        (packed(layer({"etc/zeros": bytes(40 << 20)})), "has a layer of more than 16 times what the store of"),
        (packed(layer({"disk/a": REPEATED})), "disk/a is too large: more than the 2 MiB that the store of images may"),
        (
            sparse_member("disk/a", DISK[:99], 1 << 60) + layer({}),
            "disk/a is too large: more than 4 times what the store",
        ),
        (
            sparse_member("disk/a", DISK[:99], 8 << 20) * 5 + layer({}),
            "has a layer of more than 16 times what the store",
        ),
        (sparse_member("disk/.a", DISK[:99], 1 << 60) + layer({}), "has no disk"),
    ],
    ids=["a link", "truncated", "truncated tar", "no tar", "a bomb", "too large", "a hole", "holes", "another's hole"],
)
def test_a_layer_that_is_none_is_a_sentence(shelf: Registry, images: Images, content: bytes, sentence: str) -> None:
    shelf.artefact("bad", shelf.blob(content, LAYER))
    assert sentence in images.refused(":bad", limit=2 << 20)


def test_a_limit_for_files_is_a_sentence_and_leaves_nothing(shelf: Registry, images: Images) -> None:
    shelf.artefact("large", shelf.blob(packed(layer({"disk/a": REPEATED})), LAYER))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        sentence = images.refused(":large")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "cannot take the 4 MiB of IMAGE: a file of this process may have no more than 1048576 bytes" in sentence
