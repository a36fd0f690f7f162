"""Owns CDs of which GRUB is all there is: what GRUB itself prints, booted by one kind of firmware.

It is the distribution's, for a PC with a BIOS or for UEFI on x86_64.
"""

from __future__ import annotations

from pathlib import Path

from tests.guests import tools

_PACKAGES = {"i386-pc": "grub-pc-bin", "x86_64-efi": "grub-efi-amd64-bin"}


def write_grub_cd(folder: Path, text: str, *, platform: str) -> Path:
    """Make the image of a CD in `folder` that prints `text`, of one of GRUB's platforms, and return its path."""
    modules = Path("/usr/lib/grub") / platform
    tools.require("grub-mkrescue", "xorriso", "mformat", files={modules: _PACKAGES[platform]})
    menu = folder / "tree" / "boot" / "grub" / "grub.cfg"
    menu.parent.mkdir(parents=True)
    menu.write_text(f"serial --unit=0\nterminal_output serial\necho '{text}'\nsleep 1000\n")
    path = folder / "grub.iso"
    tools.run(["grub-mkrescue", "-d", modules, "--modules=serial terminal echo sleep", "-o", path, folder / "tree"])
    return path
