"""An image from a registry is the one that its manifest leads to, compared."""

import hashlib
import http.server
import json
import platform
import random
from pathlib import Path
from typing import Any

import pytest

from pytest_readonly_vm.sources.download.from_registry import locate_in_registry
from tests.registry import LAYER, TITLE, Registry, packed
from tests.unit.download.images import DISK, OTHER, Images
from tests.web_server import serving

NESTED = b"[" * 100_000


@pytest.mark.parametrize(
    ("kind", "annotations"),
    [(LAYER, {TITLE: "x.qcow2"}), ("application/x-qemu-disk", {}), ("application/x-qemu-disk", {TITLE: "x.qcow2"})],
)
def test_the_file_of_an_artefact_comes_as_it_is(
    shelf: Registry, images: Images, kind: str, annotations: dict[str, str]
) -> None:
    shelf.artefact("file", shelf.blob(packed(DISK), kind, **annotations))
    assert images.get(":file") == packed(DISK)


def test_several_files_are_listed(shelf: Registry, images: Images) -> None:
    one, other = (
        shelf.blob(content, LAYER, **{TITLE: name}) for content, name in ((DISK, "a.img"), (OTHER, "b\x1b[m"))
    )
    shelf.artefact("several", one, other)
    sentence = "IMAGE has several files, and which one is the disk cannot be told: a.img, b"
    assert images.refused(":several") == sentence


def test_of_an_index_the_one_for_the_guests_architecture_is_taken(shelf: Registry, images: Images) -> None:
    parts = [
        shelf.artefact(
            f"part-{arch}", shelf.blob(arch.encode(), "x/disk"), platform={"architecture": arch, "os": "linux"}
        )
        for arch in ("amd64", "arm64", "riscv64")
    ]
    shelf.index("all", *parts, parts[0] | {"platform": {"architecture": "unknown", "os": "unknown"}})
    assert images.get(":all", arch="aarch64") == b"arm64"
    assert images.get(":all", arch="riscv64") == b"riscv64"
    assert images.get(":all") == {"x86_64": b"amd64", "aarch64": b"arm64"}[platform.machine()]
    sentence = "IMAGE has no image for s390x (s390x); those that it has are for: amd64, arm64, riscv64"
    assert images.refused(":all", arch="s390x") == sentence
    shelf.index("double", parts[0], parts[1] | {"platform": parts[0]["platform"]})
    digests = f"{parts[0]['digest']}, {parts[1]['digest']}"
    assert images.refused(":double", arch="x86_64") == (
        f"IMAGE has several images for x86_64; write one behind it, after @: {digests}"
    )
    shelf.index("plain", {key: value for key, value in parts[0].items() if key != "platform"})
    assert images.get(":plain", arch="aarch64") == b"amd64"


def test_a_tag_leads_to_a_digest_which_stays(shelf: Registry, images: Images) -> None:
    before = shelf.artefact("moving", shelf.blob(OTHER, "x/disk"))
    found = locate_in_registry(images.reference(":moving"), arch=None, warn=pytest.fail)
    assert (str(found.digest), found.size) == (before["digest"], len(OTHER))
    after = shelf.artefact("moving", shelf.blob(DISK, "x/disk"))
    assert after["digest"] != before["digest"]
    assert images.get(":moving") == DISK
    assert images.get(f":moving@{found.digest}") == OTHER
    assert images.get(f"@{found.digest}") == OTHER


def test_what_is_not_there_is_a_sentence(images: Images) -> None:
    assert images.refused(":none") == "IMAGE: the registry answers 404 Not Found"
    assert images.refused(f"@sha256:{'0' * 64}") == "IMAGE: the registry answers 404 Not Found"


def test_a_blob_and_a_manifest_that_were_changed_are_refused(shelf: Registry, images: Images) -> None:
    blob = shelf.blob(b"good content", "x/disk")
    manifest = shelf.artefact("changed", blob)
    shelf.data_of(blob["digest"]).write_bytes(b"evil content")
    assert (
        f"is not the file that is wanted: its digest is sha256:{hashlib.sha256(b'evil content').hexdigest()}, and the"
        in (images.refused(":changed"))
    )
    file = shelf.data_of(manifest["digest"])
    file.write_bytes(file.read_bytes() + b"\n")
    assert "is another manifest than its digest says" in images.refused(f"@{manifest['digest']}")


@pytest.mark.parametrize(
    ("manifest", "sentence"),
    [
        ({"layers": [{"digest": "sha256:12", "size": 1}]}, "has a manifest that cannot be read: 'sha256:12' has 2"),
        ({"layers": [{"size": "1"}]}, "has a manifest that cannot be read: a layer has no size"),
        ({"layers": []}, "is empty"),
        ({"layers": 7}, "is empty"),
        ({"mediaType": "application/x"}, "is no image with layers, but application/x"),
        ([], "is no manifest of an image"),
        (NESTED, "is no manifest of an image"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_a_sentence(folder: Path, manifest: Any, sentence: str) -> None:
    """Of a registry that takes what the real one does not."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = manifest if manifest is NESTED else json.dumps(manifest).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/vnd.oci.image.manifest.v1+json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with serving(Handler) as port:
        assert sentence in Images(f"127.0.0.1:{port}", folder).refused(":any")


def test_a_blob_that_was_interrupted_is_gone_on_with(shelf: Registry, images: Images) -> None:
    content = random.Random(5).randbytes(8 << 20)
    shelf.artefact("long", shelf.blob(content, "x/disk"))

    def interrupt(done: int) -> None:
        if done > 1 << 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        images.get(":long", on_progress=interrupt)
    [size] = [path.stat().st_size for path in images.folder.glob("*.part")]
    images.progress.clear()
    assert images.get(":long") == content
    assert images.progress[0] == size > 1 << 20


def test_what_is_on_this_computer_does_not_pass_by_a_proxy(
    shelf: Registry, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    shelf.artefact("here", shelf.blob(DISK, "x/disk"))
    assert images.get(":here") == DISK
