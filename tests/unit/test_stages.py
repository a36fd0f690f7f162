"""How far a boot has come, by its console: of real ones, the lines that tell, and some that only look so."""

import pytest

from pytest_readonly_vm.guest.stages import Phases, stage

BOOT = (
    ("SeaBIOS (version 1.16.2-debian-1.16.2-1)\n", "its firmware", "firmware"),
    ("Booting from Hard Disk...\nGRUB loading", "its boot loader", "firmware"),
    (".\nWelcome to GRUB!\n", "its boot loader", "firmware"),
    ("[    0.000000] Linux ver", "its boot loader", "firmware"),
    ("sion 6.1.0-40-amd64\n[    0.112871] mem auto-init: stack:all(zero)\n", "its kernel", "kernel"),
    ("[    1.9] Run /init as init process\nLoading, please wait...\n", "its initramfs", "kernel"),
    ("[    4.6] systemd[1]: Detected virtualization qemu.\n", "its init system", "userspace"),
    ("UEFI, GRUB and the Linux version 6 in a message\n", "its init system", "userspace"),
)


def test_a_boot_read_as_it_comes_and_all_at_once() -> None:
    phases, console, before = Phases(), "", ""
    for text, words, phase in BOOT:
        console += text
        assert phases.read(text) == (phase != before)
        assert (stage(console), phases.current) == (words, phase)
        before = phase


@pytest.mark.parametrize("line", ["init: starting", "[    3.1] init: starting", "OpenRC 0.52", "Welcome to Alpine"])
def test_init_systems(line: str) -> None:
    phases = Phases()
    assert phases.read(f"Linux version 6\n{line}\n")
    assert phases.current == "userspace"


def test_a_silent_guest() -> None:
    assert not Phases().read("")
    assert stage("") == "nothing that the console shows"
