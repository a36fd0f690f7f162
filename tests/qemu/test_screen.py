"""The screen can be seen and read, and whatever is typed arrives in the guest."""

import re
import shutil
import string
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_readonly_vm import GuestDied, Lab, VirtualMachine, VmConfig, VmError, WaitTimeout
from pytest_readonly_vm.channels.screen import Screen
from pytest_readonly_vm.errors import DisplayError
from tests.accelerator import ACCEL
from tests.conftest import READY
from tests.guests.debian import debian
from tests.qemu.conftest import STARTS
from tests.templates import templates

ON_A_KEYBOARD = string.printable[:95]
"""Every character that a US keyboard types without Enter, Tab and the like."""

needs_tesseract = pytest.mark.skipif(shutil.which("tesseract") is None, reason="the package tesseract-ocr is missing")


@pytest.fixture(params=["clone"])
def machine(boot: Callable[..., VirtualMachine], request: pytest.FixtureRequest) -> VirtualMachine:
    """A guest that sends what is typed on its keyboard to its console."""
    machine = boot("keys", start=request.param)
    machine.console.expect(READY)
    return machine


however_it_came_to_be = pytest.mark.parametrize("machine", STARTS, indirect=True)


@pytest.fixture
def screen(machine: VirtualMachine) -> Screen:
    return machine.screen


def test_every_character_arrives(machine: VirtualMachine, screen: Screen) -> None:
    screen.type(f"{ON_A_KEYBOARD}\n.", hold=0.01)
    assert machine.console.expect(r"^(.+)\n\.")[1] == ON_A_KEYBOARD


def test_line_and_tabulator_are_keys_too(machine: VirtualMachine, screen: Screen) -> None:
    screen.type("one\ttwo\nthree", hold=0.01)
    machine.console.expect("one\ttwo\nthree")


@however_it_came_to_be
def test_combinations_are_pressed_in_order(machine: VirtualMachine, screen: Screen) -> None:
    screen.send_keys("F2", "alt-f2", "ctrl-f2", "a", "shift-b", "PageUp", "del", "space", "minus")
    machine.console.expect(re.escape("<3c><69><5f>aB<49><53> -"))


def test_what_is_on_no_keyboard_is_a_sentence_and_nothing_is_pressed(machine: VirtualMachine, screen: Screen) -> None:
    with pytest.raises(DisplayError, match=r"^guest: there is no key 'entre' in 'entre' \(did you mean 'enter'\?\)$"):
        screen.send_keys("a", "entre")
    with pytest.raises(DisplayError, match=r"^guest: a US keyboard has no 'ß' \(character 2 of the text\)$"):
        screen.type("aß")
    screen.type(".")
    machine.console.expect(r"^\.$")


def test_a_paused_machine_takes_no_keys(machine: VirtualMachine, screen: Screen) -> None:
    machine.qmp.execute("stop")
    with pytest.raises(VmError, match=r"^guest: the machine takes no keys: it is paused$"):
        screen.type("a")


@however_it_came_to_be
def test_a_screenshot_is_a_png(machine: VirtualMachine, screen: Screen, tmp_path: Path) -> None:
    there = set(machine.folder.iterdir())
    (tmp_path / "screen.png").write_text("of an earlier run")
    path = screen.screenshot(tmp_path / "screen.png")
    assert path == tmp_path / "screen.png"
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert set(tmp_path.iterdir()) == {path}
    assert set(machine.folder.iterdir()) == there


def test_a_screenshot_that_cannot_be_written_is_a_sentence(screen: Screen, tmp_path: Path) -> None:
    with pytest.raises(VmError, match=r"^guest: /.*/nowhere/screen.png cannot be written: No such file or directory$"):
        screen.screenshot(tmp_path / "nowhere" / "screen.png")
    with pytest.raises(VmError, match=r"cannot be written: Is a directory$"):
        screen.screenshot(tmp_path)
    assert list(tmp_path.iterdir()) == []


USES: list[Callable[[Screen], object]] = [
    lambda screen: screen.screenshot("screen.png"),
    lambda screen: screen.send_keys("ret"),
    lambda screen: screen.type("a"),
    lambda screen: screen.wait_for_text("a"),
]


def test_a_machine_without_a_display_says_so(boot: Callable[..., VirtualMachine]) -> None:
    screen = boot("keys", qemu_args="-vga none").screen
    for use in USES:
        with pytest.raises(DisplayError, match=r"^guest: the machine has no display\n"):
            use(screen)


def test_the_end_of_qemu_ends_every_use(machine: VirtualMachine, screen: Screen) -> None:
    machine.kill()
    for use in USES:
        with pytest.raises(GuestDied):
            use(screen)


def test_reading_without_tesseract_names_the_package(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DisplayError, match=r"^guest: reading the screen needs the program tesseract .*tesseract-ocr"):
        screen.wait_for_text("Booting")


@needs_tesseract
def test_text_is_read_off_the_screen(machine: VirtualMachine, screen: Screen) -> None:
    there = set(machine.folder.iterdir())
    assert screen.wait_for_text(r"^Booting from (\w+ Disk)")[1] == "Hard Disk"
    with pytest.raises(WaitTimeout, match=r"^guest: the screen did not show 'Windows' within 0.5 s\n") as caught:
        screen.wait_for_text("Windows", timeout=0.5)
    assert re.search(r"(?s)^Read last:\n.*Booting from Hard Disk", caught.value.__notes__[0])
    assert set(machine.folder.iterdir()) == there


@pytest.fixture
def debian_machine() -> Iterator[VirtualMachine]:
    config = VmConfig().replace(image=debian(), accel=ACCEL, cache=templates())
    with Lab() as lab:
        yield lab.start(config, name="debian")


@needs_tesseract
def test_a_day_at_the_keyboard(debian_machine: VirtualMachine) -> None:
    screen = debian_machine.screen
    screen.send_keys("ctrl-alt-f2")
    screen.wait_for_text("tty2")
    screen.type("root\n")
    screen.wait_for_text("Password:")
    screen.type("readonly\n")
    debian_machine.wait_until_succeeds("pgrep --terminal tty2 bash")
    screen.type(r"clear; printf '\033[31mFAILED \033[32mSTARTED \033[34mSTOPPED\n'" "\n")
    screen.wait_for_text(r"^FAILED\s+STARTED\s+STOPPED$")
    screen.type("cat > /dev/ttyS0\n")
    text = (ON_A_KEYBOARD * 3)[:200]  # more than QEMU's queue would take at once
    screen.type(f"{text}\n")
    assert debian_machine.console.expect(r"login: (.*)\n")[1] == text
