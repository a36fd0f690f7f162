"""The ids of tests that run on several images are short, differ, and have nothing secret in them."""

from pathlib import Path

import pytest

from pytest_readonly_vm.config.image_reference import ImageReference, image
from pytest_readonly_vm.plugin.ladder import _ids


@pytest.mark.parametrize(
    ("images", "ids"),
    [
        ([Path("/a/x.qcow2"), Path("/b/y.z/w")], ["x", "w"]),
        ([Path("/a.b/x.qcow2"), Path("/c/x.qcow2")], ["a.b-x", "c-x"]),
        ([Path("/a/x.qcow2"), Path("/a/x.raw")], ["x.qcow2", "x.raw"]),
        ([Path("/a/x.raw"), Path("/a/x.raw")], ["x-1", "x-2"]),
        ([Path("/a/debian-12.1"), Path("/a/.hidden")], ["debian-12.1", ".hidden"]),
        ([ImageReference("ubuntu-24.04"), ImageReference("x.raw")], ["ubuntu-24.04", "x.raw"]),
        (["oci://registry.example.org/debian:12", Path("/a/x.raw")], ["debian:12", "x"]),
        (["oci://a.example.org/d:1", "oci://b.example.org/d:1"], ["a.example.org-d:1", "b.example.org-d:1"]),
        (["https://example.org/a/latest", "https://example.org/b/x.qcow2?sig=1"], ["latest", "x"]),
        (["https://example.org/x.qcow2?sig=1", "https://example.org/x.qcow2?sig=2"], ["x-1", "x-2"]),
        (["https://example.org/", "https://me:pw@a.example.org"], ["example.org", "a.example.org"]),
    ],
)
def test_ids(images: list[object], ids: list[str]) -> None:
    assert _ids([image(one) if isinstance(one, str) else one for one in images]) == ids
