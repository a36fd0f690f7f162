"""Owns the tiny Linux that knows disks on any interface that its kernel has drivers for, not only virtio's."""

from __future__ import annotations

import dataclasses
import logging
import tempfile
from pathlib import Path

from tests.guests import archive, cache, cpio, tools
from tests.guests.architectures import X86_64
from tests.guests.tiny_linux import ALONG, TinyLinux, modules, only, tiny_linux

_MODULES = ("virtio_pci", "sd_mod", "virtio_scsi", "ata_piix", "nvme")

log = logging.getLogger(__name__)


def tiny_with_disks() -> TinyLinux:
    """The guest, built when the cache does not have it; `BuildError` when that fails."""
    tiny = tiny_linux()
    distribution, codename = archive.host_release()
    names = ("tiny_disks", "tiny_linux", "archive", "architectures", "cpio")
    recipe = [Path(__file__).with_name(f"{name}.py") for name in names]
    key = cache.key(distribution, codename, recipe=recipe)
    folder = cache.get("tiny-disks", key=key, build=lambda folder: _build(tiny, folder))
    return dataclasses.replace(tiny, initrd=folder / "initrd")


def _build(tiny: TinyLinux, directory: Path) -> None:
    tools.require("apt-get", "dpkg-deb")
    with tempfile.TemporaryDirectory(dir=directory) as temporary:
        scratch = Path(temporary)
        host = archive.host_archive(X86_64)
        for package in archive.download(host, [host.kernel], along=ALONG, into=scratch):
            tools.run(["dpkg-deb", "--extract", package, scratch / "root"])
        version = only(scratch.glob("root/boot/vmlinu[xz]-*")).name.partition("-")[2]
        log.info("packing the drivers")
        content = tiny.initrd.read_bytes()
        aligned = content + bytes(-len(content) % 4)
        drivers = modules(scratch / "root", version, _MODULES)
        added = [dataclasses.replace(one, name=one.name.replace("/", "/9", 1)) for one in drivers]
        (directory / "initrd").write_bytes(aligned + cpio.archive(added))
