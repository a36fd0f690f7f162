"""Owns the tiny Linux on a disk that boots by UEFI alone: an unsigned unified kernel image where a loader belongs.

The guest has efivarfs mounted, and serves a root shell on the plugin's port by itself, as nothing can be handed to its
kernel. `kernel` and `initrd` boot it directly, with the firmware of the machine.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.guests import archive, cache, cpio, esp, tools
from tests.guests.tiny_linux import TinyLinux, only, tiny_linux

_SIZE = 96 << 20
_STUB = "linuxx64.efi.stub"
_SECTIONS = {".osrel": 0x20000, ".cmdline": 0x30000, ".linux": 0x2000000, ".initrd": 0x3000000}
"""Those that systemd-stub(7) looks for, and where in memory they are to be."""

_SERVERS = """\
#!/bin/sh
mount -t efivarfs efivarfs /sys/firmware/efi/efivars
(while :; do
    for port in /sys/class/virtio-ports/*; do
        [ -e $port ] && read -r name <$port/name && [ "$name" = readonly-vm.shell ] && setsid sh <>/dev/${port##*/} >&0
    done
    sleep .1
done) </dev/null >/dev/null 2>&1 &
"""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TinyUefi:
    """What to boot."""

    disk: Path
    """A raw image with a GPT; its only partition is the EFI system partition."""
    kernel: Path
    """A bzImage, which a firmware can start."""
    initrd: Path
    append: str


def tiny_uefi() -> TinyUefi:
    """The guest, built when the cache does not have it; `BuildError` when that fails."""
    tiny = tiny_linux()
    distribution, codename = archive.host_release()
    names = ("tiny_uefi", "tiny_linux", "archive", "cpio", "esp")
    recipe = [Path(__file__).with_name(f"{name}.py") for name in names]
    key = cache.key(distribution, codename, recipe=recipe)
    folder = cache.get("tiny-uefi", key=key, build=lambda folder: _build(tiny, folder))
    return TinyUefi(folder / "disk.raw", folder / "vmlinuz", folder / "initrd", tiny.append)


def _build(tiny: TinyLinux, directory: Path) -> None:
    tools.require("apt-get", "dpkg-deb", "objcopy", "mformat")
    with tempfile.TemporaryDirectory(dir=directory) as temporary:
        scratch = Path(temporary)
        root = scratch / "root"
        host = archive.host_archive()
        packages = [host.kernel, "systemd-boot-efi"]
        for package in archive.download(host, packages, along=("linux-image-", "linux-modules-"), into=scratch):
            tools.run(["dpkg-deb", "--extract", package, root])
        kernel = only(root.glob("boot/vmlinuz-*"))
        (directory / "vmlinuz").write_bytes(kernel.read_bytes())
        content = tiny.initrd.read_bytes()
        added = cpio.archive([*_added(root)])
        (directory / "initrd").write_bytes(content + bytes(-len(content) % 4) + added)
        texts = {".osrel": "ID=tiny\nPRETTY_NAME=tiny\n", ".cmdline": tiny.append}
        parts = {".linux": directory / "vmlinuz", ".initrd": directory / "initrd"}
        for name, text in texts.items():
            parts[name] = scratch / name.strip(".")
            parts[name].write_text(text)
        added_sections = [
            word
            for name, address in _SECTIONS.items()
            for word in ("--add-section", f"{name}={parts[name]}", "--change-section-vma", f"{name}={address:#x}")
        ]
        log.info("making the disk")
        image = scratch / "BOOTX64.EFI"
        tools.run(["objcopy", *added_sections, only(root.rglob(_STUB)), image])
        partition = esp.Partition(esp.TYPE_ESP, esp.ALIGNED, _SIZE - 2 * esp.ALIGNED, "ESP")
        esp.make_file_system(scratch / "esp", size=partition.size, files={"EFI/BOOT/BOOTX64.EFI": image})
        first, last = esp.table(_SIZE, [partition])
        with (directory / "disk.raw").open("wb") as disk:
            disk.write(first)
            disk.seek(partition.start)
            disk.write((scratch / "esp").read_bytes())
            disk.seek(_SIZE - len(last))
            disk.write(last)


def _added(root: Path) -> Iterator[cpio.Member]:
    module = only(root.rglob("efivarfs.ko"))
    yield cpio.file("modules/99-efivarfs.ko", module.read_bytes())
    yield cpio.directory("etc")
    yield cpio.file("etc/servers", _SERVERS.encode(), mode=0o755)
