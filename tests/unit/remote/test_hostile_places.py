"""What lies at a place may be anything: each kind is one sentence, within bounds, and leaves nothing."""

import base64
import hashlib
import json
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_readonly_vm import RemoteError
from pytest_readonly_vm.remote import url_files
from pytest_readonly_vm.remote.packing import packed, unpacked
from pytest_readonly_vm.remote.remote_cache import RemoteCache
from pytest_readonly_vm.remote.targets import open_remote
from pytest_readonly_vm.sources.download import web
from tests.unit.remote.parcels import FILES, KEY, parcel
from tests.web_server import Fault, Site

Change = Callable[[dict[str, Any], dict[str, Any]], object]


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """A folder of one's own with a parcel."""
    with open_remote(tmp_path / "place") as place:
        place.push(parcel(tmp_path, FILES))
    return tmp_path / "place"


def blob(layout: Path, digest: str) -> Path:
    return layout / digest.replace("sha256:", "blobs/sha256/")


def put(layout: Path, content: bytes) -> dict[str, Any]:
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    blob(layout, digest).write_bytes(content)
    return {"digest": digest, "size": len(content)}


def manifest_of(layout: Path) -> dict[str, Any]:
    head = json.loads((layout / f"keys/{KEY}.json").read_text())
    found: dict[str, Any] = json.loads(blob(layout, head["digest"]).read_text())
    return found


def change(layout: Path, changed: Change) -> None:
    """Have it lie there with a manifest and a table that are others, and digests that are right."""
    manifest = manifest_of(layout)
    config = manifest["config"]
    size = int(config["annotations"]["io.pytest-readonly-vm.unpacked"])
    table = json.loads(unpacked(blob(layout, config["digest"]).read_bytes(), size, "table"))
    before = json.dumps(table)
    changed(manifest, table)
    plain = json.dumps(table)
    if plain != before:
        config |= put(layout, packed(plain.encode()))
        config["annotations"]["io.pytest-readonly-vm.unpacked"] = str(len(plain))
    publish(layout, json.dumps(manifest).encode())


def publish(layout: Path, manifest: bytes) -> None:
    place = layout / f"keys/{KEY}.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | put(layout, manifest)))


def refused(place: RemoteCache, folder: Path) -> str:
    """The sentence, and that nothing is left."""
    folder.mkdir()

    def fetch() -> None:
        manifest = place.find(KEY)
        assert manifest is not None
        place.fetch(manifest, folder)

    with pytest.raises(RemoteError) as error:
        fetch()
    assert list(folder.iterdir()) == []
    assert "\n" not in str(error.value)
    return str(error.value)


def file(manifest: dict[str, Any], table: dict[str, Any], name: str, **other: Any) -> None:
    table["files"][name] = {"size": 4, "blocks": ""} | other


def blocks(*found: tuple[int, int, int]) -> str:
    """The list of such blocks: by how much number, pack and offset are more than those before."""
    columns = b"".join(struct.pack(f">{len(found)}I", *column) for column in zip(*found, strict=True))
    return base64.b64encode(columns + bytes(32) * len(found)).decode()


def layer(manifest: dict[str, Any], **other: Any) -> None:
    manifest["layers"][0] |= other


def unpacks_to(manifest: dict[str, Any], which: str, size: str) -> None:
    one = manifest["layers"][0] if which == "layers" else manifest["config"]
    one["annotations"]["io.pytest-readonly-vm.unpacked"] = size


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (lambda m, t: file(m, t, "../../etc/passwd"), "is no name that a file of it may have"),
        (lambda m, t: file(m, t, "/etc/passwd"), "is no name"),
        (lambda m, t: file(m, t, ".hidden"), "is no name"),
        (lambda m, t: file(m, t, "a\0b"), "is no name"),
        (lambda m, t: file(m, t, "x" * 300), "is no name"),
        (lambda m, t: file(m, t, "x", size=-1), "impossible size"),
        (lambda m, t: file(m, t, "x", size=1 << 60), "impossible size"),
        (lambda m, t: file(m, t, "x", size=True), "impossible size"),
        (lambda m, t: file(m, t, "x", size=1e9), "impossible size"),
        (lambda m, t: file(m, t, "x", blocks="AAAA"), "no list of its blocks"),
        (lambda m, t: file(m, t, "x", blocks="no base 64 \n"), "its table is none"),
        (lambda m, t: file(m, t, "x", blocks=blocks((0, 99, 0))), "a block that is nowhere"),
        (lambda m, t: file(m, t, "x", blocks=blocks((0, 0, 1 << 31))), "a block that is nowhere"),
        (lambda m, t: file(m, t, "x", blocks=blocks((7, 0, 0))), "a block that is nowhere"),
        (lambda m, t: file(m, t, "x", blocks=blocks((0, 0, 0), (0, 0, 0))), "a block that is nowhere"),
        (lambda m, t: file(m, t, "x", blocks=blocks((0, 0, 0))), "x is another than its manifest says"),
        (lambda m, t: t.update(files={}), "no files, or too many"),
        (
            lambda m, t: t.update(files={f"f{n}": {"size": 0, "blocks": ""} for n in range(999)}),
            "no files, or too many",
        ),
        (lambda m, t: t.update(files=[1]), "its table is none"),
        (lambda m, t: t.update(facts=[]), "no files, or too many"),
        (lambda m, t: t.update(block=3), "impossible length"),
        (lambda m, t: t.update(block=1 << 30), "impossible length"),
        (lambda m, t: t.update(format=2), "its format is 2"),
        (lambda m, t: t.pop("format"), "its table is none"),
        (lambda m, t: layer(m, digest="sha256:../../../etc/passwd"), "without a digest of SHA-256"),
        (lambda m, t: layer(m, digest=7), "without a digest of SHA-256"),
        (lambda m, t: layer(m, size=0), "impossible size"),
        (lambda m, t: layer(m, size=1 << 40), "impossible size"),
        (lambda m, t: layer(m, digest=f"sha256:{'0' * 64}"), "is not there"),
        (lambda m, t: unpacks_to(m, "layers", "999999999"), "too large when unpacked"),
        (lambda m, t: unpacks_to(m, "layers", "8000000"), "another length than 8000000 bytes"),
        (lambda m, t: unpacks_to(m, "config", "9999999999"), "too large when unpacked"),
        (lambda m, t: unpacks_to(m, "config", "100"), "another length than 100 bytes"),
        (lambda m, t: m.update(layers=m["layers"] * 10_000), "too many parts"),
        (lambda m, t: m.update(layers={}), "no manifest of a frozen guest"),
        (lambda m, t: m["annotations"].update({"io.pytest-readonly-vm.key": "f" * 64}), "that of another key"),
        (lambda m, t: m["config"].update(mediaType="image"), "something else"),
        (lambda m, t: m.pop("config"), "no manifest of a frozen guest"),
    ],
)
def test_what_does_not_fit_together_is_refused(layout: Path, tmp_path: Path, changed: Change, reason: str) -> None:
    change(layout, changed)
    with open_remote(layout) as place:
        assert reason in refused(place, tmp_path / "here")


@pytest.mark.parametrize(
    "manifest", [b"", b"[1]", b"7", b"\xff", b"{" * 9, b"[" * 200_000, b'{"config": "' + b"x" * (5 << 20) + b'"}']
)
def test_what_is_no_manifest_is_refused(layout: Path, tmp_path: Path, manifest: bytes) -> None:
    publish(layout, manifest)
    with open_remote(layout) as place:
        refused(place, tmp_path / "here")


@pytest.mark.parametrize("head", [b"", b"{}", b"[" * 60_000, b'{"digest": "sha256:../../x", "annotations": {}}'])
def test_what_is_no_descriptor_is_refused(layout: Path, tmp_path: Path, head: bytes) -> None:
    (layout / f"keys/{KEY}.json").write_bytes(head)
    with open_remote(layout) as place:
        refused(place, tmp_path / "here")


def test_a_pack_that_unpacks_to_gigabytes_is_not_unpacked(layout: Path, tmp_path: Path) -> None:
    bomb = packed(bytes(64 << 20))
    change(layout, lambda manifest, table: layer(manifest, **put(layout, bomb)))
    with open_remote(layout) as place:
        assert "another length" in refused(place, tmp_path / "here")


def test_a_block_that_is_used_a_thousand_times_is_within_the_limit(layout: Path, tmp_path: Path) -> None:
    many = blocks((0, 0, 0), *(((1, 0, 0),) * 1000))
    change(layout, lambda manifest, table: file(manifest, table, "x", size=1 << 30, blocks=many))
    with open_remote(layout) as place:
        manifest = place.find(KEY)
        assert manifest is not None
        with pytest.raises(RemoteError, match="the limit is 8 MiB"):
            place.fetch(manifest, tmp_path, limit=8 << 20)


@pytest.mark.parametrize("damage", ["other", "longer", "shorter", "fifo", "link", "folder"])
def test_a_blob_that_is_something_else_is_refused(layout: Path, tmp_path: Path, damage: str) -> None:
    path = blob(layout, manifest_of(layout)["layers"][0]["digest"])
    content = path.read_bytes()
    path.unlink()
    match damage:
        case "fifo":
            os.mkfifo(path)
        case "link":
            (tmp_path / "elsewhere").write_bytes(content)
            path.symlink_to(tmp_path / "elsewhere")
        case "folder":
            path.mkdir()
        case _:
            path.write_bytes({"other": bytes(len(content)), "longer": content + b"!", "shorter": content[:-1]}[damage])
    with open_remote(layout) as place:
        refused(place, tmp_path / "here")


def serve(layout: Path, server: Site) -> str:
    for path in layout.rglob("*"):
        if path.is_file():
            server.put(str(path.relative_to(layout)), path.read_bytes())
    return f"/{blob(layout, manifest_of(layout)['layers'][0]['digest']).relative_to(layout)}"


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault(stall=100), "sent nothing for 1 s"),
        (Fault(cut=100), "ended the connection too early"),
        (Fault(status=403), "answers 403"),
        (Fault(status=503), "answers 503"),
        (Fault(status=404), "is not there"),
    ],
)
def test_a_server_that_fails_is_named(
    layout: Path, tmp_path: Path, server: Site, monkeypatch: pytest.MonkeyPatch, fault: Fault, reason: str
) -> None:
    if fault.stall is not None:
        monkeypatch.setattr(web, "READ_PATIENCE", 1.0)
    name = serve(layout, server)
    server.files[name].faults.extend([fault] * 10)
    with open_remote(server.url, unsigned=True) as place:
        assert reason in refused(place, tmp_path / "here")


def test_a_server_that_sends_without_end_is_cut(layout: Path, tmp_path: Path, server: Site) -> None:
    name = serve(layout, server)
    server.files[name].content += bytes(64 << 20)
    with open_remote(server.url, unsigned=True) as place:
        assert "another than its digest says" in refused(place, tmp_path / "here")


def test_an_object_store_that_never_answers_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        with open_remote("s3://frozen/here", unsigned=True) as place:
            monkeypatch.setattr(url_files, "PATIENCE", 0.5)
            with pytest.raises(RemoteError, match=r"s3://frozen/here has not answered within 0\.5 s"):
                place.find(KEY)
            with pytest.raises(RemoteError, match=r"has not answered"):
                place.push(parcel(tmp_path, FILES))
