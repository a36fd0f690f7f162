"""Owns the packages of a distributed system, for guests that install it: etcd and its client."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.guests import archive, cache

_PACKAGES = ("etcd-server", "etcd-client")


def etcd_packages() -> Path:
    """A folder with the packages of the host's release, and nothing else; `BuildError` when they cannot be had."""
    key = cache.key(*archive.host_release(), *_PACKAGES, recipe=[Path(__file__), Path(archive.__file__)])
    return cache.get("etcd", key=key, build=_build) / "packages"


def _build(folder: Path) -> None:
    packages = folder / "packages"
    packages.mkdir()
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        for package in archive.download(archive.host_archive(), _PACKAGES, along=(), into=Path(scratch)):
            package.rename(packages / package.name)
