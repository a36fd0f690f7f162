"""The power button is pressed until the guest minds it, and not once it does."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_readonly_vm import VirtualMachine, WaitTimeout
from tests.guests import bootsector
from tests.qemu.waiting import GENEROUS

READY = "hello\n"


def test_a_press_that_is_lost_is_repeated(boot: Callable[..., VirtualMachine]) -> None:
    machine = boot("minds_the_second_press")
    machine.powerdown(timeout=GENEROUS)
    assert not machine.is_running()
    assert machine.console.text.count("pressed") == 2


def test_so_it_is_before_an_overlay_is_kept(boot: Callable[..., VirtualMachine], tmp_path: Path) -> None:
    machine = boot("minds_the_second_press", snapshot="overlay")
    machine.close(keep_overlay_as=tmp_path / "kept.qcow2")
    assert machine.console.text.count("pressed") == 2
    assert (tmp_path / "kept.qcow2").exists()


def test_it_is_left_alone_once_the_guest_reacts(boot: Callable[..., VirtualMachine], tmp_path: Path) -> None:
    sector = bootsector.minds_the_second_press(READY, "         Stopping getty@tty1.service - Getty on tty1...")
    machine = boot(bootsector.write_image(tmp_path / "stops.img", sector))
    with pytest.raises(WaitTimeout, match=r"the guest did not shut down within 2\.5 s of its power button") as timeout:
        machine.powerdown(timeout=2.5)
    assert machine.console.text.count("Stopping") == 1
    assert "Last console lines:" in timeout.value.__notes__[0]
