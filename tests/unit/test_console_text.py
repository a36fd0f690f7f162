"""What a terminal would obey is kept from the terminal of whoever reads a report."""

import pytest

from pytest_readonly_vm.channels.console import shown


@pytest.mark.parametrize(
    ("sent", "fit"),
    [
        ("plain\ttext\n", "plain\ttext\n"),
        ("\x1b[H\x1b[JWelcome to \x1b[1;31mGRUB\x1b[0m", "Welcome to GRUB"),
        ("\x1b[?2004hroot@debian:~# ", "root@debian:~# "),
        ("\x1b]0;a title\x07after", "after"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bPdevice control\x1b\\x", "x"),
        ("\x1bcreset \x9b2Jc1", "reset 2Jc1"),
        ("bell\x07 back\x08 nul\x00 \x1b", "bell back nul "),
        ("größe ✓", "größe ✓"),
    ],
)
def test_only_text_is_shown(sent: str, fit: str) -> None:
    assert shown(sent) == fit
