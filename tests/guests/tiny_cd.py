"""Owns the tiny Linux on a CD: GRUB, the kernel as the distribution has it, and the initramfs that tiny has.

As with the CDs of distributions its image is a bootable disk as well. The guest is that of tiny, with a drive.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

from tests.guests import archive, cache, cpio, tools
from tests.guests.tiny_linux import ALONG, APPEND, MODULES, modules, only, system

_BIOS = Path("/usr/lib/grub/i386-pc/cdboot.img")
LABEL = "TINY"
"""The name of the volume."""

_MODULES = (*MODULES, "ata_piix", "sr_mod", "isofs")
_MENU = f"""\
serial --unit=0
terminal_output serial
linux /boot/vmlinuz {APPEND}
initrd /boot/initrd
boot
"""

log = logging.getLogger(__name__)


def tiny_cd() -> Path:
    """The image, built when the cache does not have it; `BuildError` when that fails."""
    names = ("tiny_cd", "tiny_linux", "archive", "cpio")
    recipe = [Path(__file__).with_name(f"{name}.py") for name in names]
    key = cache.key(*archive.host_release(), recipe=recipe)
    return cache.get("tiny-cd", key=key, build=_build) / "tiny.iso"


def _build(directory: Path) -> None:
    tools.require("apt-get", "dpkg-deb", "grub-mkrescue", "xorriso", files={_BIOS: "grub-pc-bin"})
    with tempfile.TemporaryDirectory(dir=directory) as temporary:
        scratch = Path(temporary)
        host = archive.host_archive()
        packages = archive.download(host, [host.kernel, "busybox-static"], along=ALONG, into=scratch)
        root = scratch / "root"
        for package in packages:
            log.info("unpacking %s", package.name)
            tools.run(["dpkg-deb", "--extract", package, root])
        image = only(root.glob("boot/vmlinuz-*"))
        members = [*system(root), *modules(root, image.name.removeprefix("vmlinuz-"), _MODULES)]
        tree = scratch / "tree" / "boot"
        (tree / "grub").mkdir(parents=True)
        (tree / "initrd").write_bytes(cpio.archive(members))
        (tree / "grub" / "grub.cfg").write_text(_MENU)
        image.rename(tree / "vmlinuz")
        log.info("making the CD")
        tools.run(["grub-mkrescue", "-o", directory / "tiny.iso", tree.parent, "--", "-volid", LABEL])
