"""Owns the Debian guest as UEFI boots it, and nothing else can: two disks, each a small layer or a copy of its files.

==========  ==========================================================  =========================================
name        what the firmware starts                                    the root file system
==========  ==========================================================  =========================================
``lvm``     systemd-boot, with kernel and initramfs beside it           the BIOS guest's ext4, as a logical volume
``shim``    shim, GRUB and kernel, all as Debian signs them             a btrfs with the same files
==========  ==========================================================  =========================================

All are qcow2 layers above a disk of `tests.guests.debian`: everything in front of its file system and behind it is
written anew. No loop device is needed, nor LVM's own tools: `lvm` writes what they would.
"""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.guests import archive, cache, esp, lvm, tools
from tests.guests.debian import BTRFS_UUID, PARTITION_SIZE, WORDS, debian
from tests.guests.disk import PARTITION_START
from tests.guests.tiny_linux import only

_ESP_SIZE = 48 << 20
_ESP_START = PARTITION_START + PARTITION_SIZE
_SIZE = _ESP_START + _ESP_SIZE + esp.ALIGNED
_PACKAGES = ("shim-signed", "grub-efi-amd64-signed", "systemd-boot-efi")
_VOLUME = "debian-root"

# The signed GRUB reads its configuration there; the plain "linux" is the one that goes by UEFI.
_GRUB_CONFIG = "EFI/debian/grub.cfg"
_GRUB = """\
serial --unit=0 --speed=115200
terminal_input console serial
terminal_output console serial
set timeout=0
search.fs_uuid {uuid} root
menuentry "Debian GNU/Linux" {{
    linux {kernel} root={root} ro {words}
    initrd {initrd}
}}
"""
_LOADER_ENTRY = """\
title Debian GNU/Linux
linux /debian/vmlinuz
initrd /debian/initrd.img
options root={root} ro {words}
"""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DebianUefi:
    """Qcow2 images."""

    lvm: Path
    shim: Path


def debian_uefi() -> DebianUefi:
    """The guests, built when the cache does not have them; `BuildError` when that fails."""
    plain = debian()
    distribution, codename = archive.host_release()
    names = ("debian_uefi", "debian", "debian_files", "archive", "disk", "esp", "ext4", "lvm")
    recipe = [Path(__file__).with_name(f"{name}.py") for name in names]
    key = cache.key(distribution, codename, recipe=recipe)
    folder = cache.get("debian-uefi", key=key, build=lambda folder: _build(plain, folder))
    return DebianUefi(*(folder / f"{name}.qcow2" for name in ("lvm", "shim")))


def _build(plain: Path, directory: Path) -> None:
    tools.require("apt-get", "dpkg-deb", "mformat", "qemu-img", "qemu-io")
    with tempfile.TemporaryDirectory(dir=directory) as temporary:
        scratch = Path(temporary)
        unpacked = scratch / "root"
        for package in archive.download(archive.host_archive(), _PACKAGES, along=(), into=scratch):
            tools.run(["dpkg-deb", "--extract", package, unpacked])
        shim = only(unpacked.rglob("shimx64.efi.signed"))
        grub = only(unpacked.rglob("grubx64.efi.signed"))
        boot = only(unpacked.rglob("systemd-bootx64.efi"))
        _layer(
            plain,
            directory / "lvm.qcow2",
            scratch,
            kind=esp.TYPE_LVM,
            files={
                "EFI/BOOT/BOOTX64.EFI": boot,
                "loader/loader.conf": "timeout 0\n",
                "loader/entries/debian.conf": _LOADER_ENTRY.format(root=f"/dev/mapper/{_VOLUME}", words=WORDS),
                "debian/vmlinuz": plain.with_name("vmlinuz"),
                "debian/initrd.img": plain.with_name("initrd-volumes.img"),
            },
        )
        _layer(
            plain.with_name("btrfs.qcow2"),
            directory / "shim.qcow2",
            scratch,
            kind=esp.TYPE_LINUX,
            files={
                "EFI/BOOT/BOOTX64.EFI": shim,
                "EFI/BOOT/grubx64.efi": grub,
                _GRUB_CONFIG: _GRUB.format(
                    uuid=BTRFS_UUID,
                    root=f"UUID={BTRFS_UUID}",
                    words=WORDS,
                    kernel="/boot/vmlinuz",
                    initrd="/boot/initrd-volumes.img",
                ),
            },
        )


def _layer(below: Path, layer: Path, scratch: Path, *, kind: object, files: dict[str, Path | str]) -> None:
    """A disk with the file system of another one, a new partition table, and an EFI system partition behind."""
    log.info("making %s", layer.name)
    # By a relative name, so that the whole cache can be moved.
    name = Path("..") / below.parent.name / below.name
    tools.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", name, layer, str(_SIZE)])
    is_volume = kind == esp.TYPE_LVM
    root = esp.Partition(
        esp.TYPE_LVM if is_volume else esp.TYPE_LINUX,
        start := lvm.LABEL_AT if is_volume else PARTITION_START,
        _ESP_START - start,
        "root",
    )
    first, last = esp.table(_SIZE, [root, esp.Partition(esp.TYPE_ESP, _ESP_START, _ESP_SIZE, "ESP")])
    if is_volume:
        first = first.ljust(start, b"\0") + lvm.label(
            data=PARTITION_START - start, size=PARTITION_SIZE, partition=root.size, group="debian", volume="root"
        )
    parts = {0: first.ljust(PARTITION_START, b"\0"), _SIZE - len(last): last}
    esp.make_file_system(scratch / "esp", size=_ESP_SIZE, files=files)
    commands = [f"write -q -s {scratch / 'esp'} {_ESP_START} {_ESP_SIZE}"]
    for offset, content in parts.items():
        part = scratch / f"part-{offset}"
        part.write_bytes(content)
        commands.append(f"write -q -s {part} {offset} {len(content)}")
    tools.run(["qemu-io", "-f", "qcow2", *(word for command in commands for word in ("-c", command)), layer])
