"""Digests of images that are kept for later runs."""

import hashlib
import os
from pathlib import Path

import pytest

from pytest_readonly_vm.image.image_file import Fingerprint, ImageFile
from pytest_readonly_vm.image.kept_digests import KeptDigests
from tests.qemu.waiting import eventually


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "pytest-readonly-vm/digests"


def opened(path: Path) -> ImageFile:
    descriptor = os.open(path, os.O_RDONLY)
    return ImageFile(path, "raw", descriptor, Fingerprint.of(os.fstat(descriptor)))


def digest(path: Path) -> str:
    """As a run finds it, which knows of others only what is kept."""
    file = opened(path)
    try:
        return KeptDigests().sha256(file)
    finally:
        os.close(file.descriptor)


def kept_digest(path: Path, cache: Path) -> Path:
    """Where the digest of an image is kept, once it is: that of a file that was written just now is not."""

    def kept() -> list[Path]:
        digest(path)
        return list(cache.glob("?" * 64))

    (found,) = eventually(kept, "a digest is kept")
    return found


def test_a_digest_is_read_once_and_not_of_a_file_that_was_written_since(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"first")
    kept = kept_digest(path, cache)
    assert kept.read_text() == digest(path) == hashlib.sha256(b"first").hexdigest()
    kept.write_text("0" * 64)  # which only who does not read the image believes
    assert digest(path) == "0" * 64
    path.write_bytes(b"other")
    assert digest(path) == hashlib.sha256(b"other").hexdigest()


def test_what_is_no_digest_is_not_believed(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"first")
    kept = kept_digest(path, cache)
    for content in ("", "no digest", "0" * 63):
        kept.write_text(content)
        assert digest(path) == hashlib.sha256(b"first").hexdigest()
