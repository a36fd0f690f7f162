"""Owns how far a boot has come, by what its serial console has shown. Pure."""

import re

from pytest_readonly_vm.guest.prompts import Prompts

_STAGES = (
    (r"SeaBIOS|iPXE|BdsDxe|UEFI|U-Boot|OpenSBI", "its firmware", "firmware"),
    (r"Booting from|GRUB|Welcome to GRUB|SYSLINUX|systemd-boot|Loading Linux", "its boot loader", "firmware"),
    (r"Linux version |Copyright .* FreeBSD Project|NetBSD \d|OpenBSD \d", "its kernel", "kernel"),
    (r"Run /\S+ as init process|Loading, please wait|dracut", "its initramfs", "kernel"),
    (r"systemd\[1\]: |Welcome to (?!GRUB)|OpenRC|INIT: version|(?:^|\] )init: ", "its init system", "userspace"),
)
"""What tells of a stage, the words for it, and the phase of `boot_phases` that it is part of."""

_LONGEST_MARK = 200  # characters


def stage(console: str) -> str:
    """How far a boot has come, in words, by all that the serial console has shown."""
    if Prompts().has_login(console):
        return "a login prompt"
    reached = [words for pattern, words, _ in _STAGES if re.search(pattern, console, re.MULTILINE)]
    return reached[-1] if reached else "nothing that the console shows"


class Phases:
    """The phase that a boot is in, for who reads along with its console."""

    def __init__(self) -> None:
        self.current = ""
        """``firmware``, ``kernel``, ``userspace``, or nothing as long as nothing tells of one."""
        self._ahead: tuple[tuple[str, str, str], ...] = _STAGES
        self._end = ""

    def read(self, text: str) -> bool:
        """Take in what has come since the last call; whether another phase has begun by that."""
        before, seen = self.current, self._end + text
        for number, (pattern, _, phase) in reversed(list(enumerate(self._ahead, 1))):
            if re.search(pattern, seen, re.MULTILINE):
                self.current, self._ahead = phase, self._ahead[number:]
                break
        self._end = seen.rpartition("\n")[2][-_LONGEST_MARK:]
        return self.current != before
