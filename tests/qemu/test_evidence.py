"""What evidence says of guests that have a channel: what only they can tell, and the ends of its patience."""

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_readonly_vm import Lab, VirtualMachine, VmConfig
from pytest_readonly_vm.evidence.collect import PIECES, collect
from tests.accelerator import ACCEL
from tests.guests.debian import debian
from tests.guests.tiny_linux import READY, tiny_linux
from tests.qemu.waiting import GENEROUS, eventually
from tests.templates import templates

KNOWN_BY_US = {"overview.txt", "console.txt", "qmp.jsonl", "timeline.jsonl", "stderr.txt", "command.sh", "config.json"}
ABOUT = {"test": "test_a.py::test_b", "failed in": "call: assert 0"}


def tiny() -> VmConfig:
    guest = tiny_linux()
    files = {"image": guest.disk, "kernel": guest.kernel, "initrd": guest.initrd, "append": guest.append}
    return VmConfig().replace(**files, accel=ACCEL, memory="128M", boot_timeout=GENEROUS, cache=templates())


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


@pytest.fixture
def start(lab: Lab) -> Iterator[Callable[[VmConfig], VirtualMachine]]:
    machines: list[VirtualMachine] = []

    def one(config: VmConfig) -> VirtualMachine:
        machines.append(lab.start(config, name="guest"))
        return machines[-1]

    yield one
    for vm in machines:
        vm.close()


@pytest.fixture
def vm(start: Callable[[VmConfig], VirtualMachine]) -> VirtualMachine:
    return start(tiny())


def test_a_guest_is_asked_for_what_only_it_knows(vm: VirtualMachine, tmp_path: Path) -> None:
    vm.run(
        "echo '<2>not of the kernel' >/dev/kmsg; echo 'said in the test' >/dev/kmsg; "
        "sleep 4321 >/dev/null 2>&1 </dev/null &"
    )
    evidence = collect(vm, tmp_path / "new", about=ABOUT)
    assert not evidence.missing
    assert {path.name for path in evidence.saved} == KNOWN_BY_US | {"screenshot.png", "processes.txt", "kernel.txt"}
    assert {path.name for path in evidence.saved} <= set(PIECES)
    assert all(path.is_file() for path in evidence.saved)
    assert "said in the test" in (tmp_path / "new" / "kernel.txt").read_text()
    assert "sleep 4321" in (tmp_path / "new" / "processes.txt").read_text()
    assert "sleep 4321" in (tmp_path / "new" / "timeline.jsonl").read_text()
    assert "channel:    shell" in (tmp_path / "new" / "overview.txt").read_text()
    assert vm.run("echo still here").stdout == "still here\n"


def test_systemd_tells_its_journal_since_the_handover_and_its_failed_units(
    start: Callable[[VmConfig], VirtualMachine], tmp_path: Path
) -> None:
    vm = start(VmConfig().replace(image=debian(), accel=ACCEL, boot_timeout=300, start="clone", cache=templates()))
    vm.run("logger 'said in the test'; for _ in 1 2 3; do logger -p daemon.err -t shop 'the disk is full'; done")
    vm.run(["systemd-run", "--wait", "--unit=broken", "sh", "-c", "echo no configuration >&2; exit 3"], check=False)
    evidence = collect(vm, tmp_path, about=ABOUT)
    assert not evidence.missing
    assert evidence.complaints == [
        "broken.service failed (exit-code), last said: no configuration",
        "shop: the disk is full (3 times)",
    ]
    journal = (tmp_path / "journal.txt").read_text()
    assert "said in the test" in journal
    assert "Linux version" not in journal
    assert "broken.service" in (tmp_path / "failed-units.txt").read_text()
    assert "systemd-journald" in (tmp_path / "processes.txt").read_text()
    assert not (tmp_path / "kernel.txt").exists()
    whose = r"start: +clone, ready after \d+\.\d\d s \(the boot that it goes on from: firmware \d+\.\d\d s, kernel "
    assert re.search(whose, (tmp_path / "overview.txt").read_text())


def test_a_guest_that_stands_still_is_not_asked(vm: VirtualMachine, tmp_path: Path) -> None:
    vm.pause()
    evidence = collect(vm, tmp_path, about=ABOUT)
    assert {path.name for path in evidence.saved} == KNOWN_BY_US | {"screenshot.png"}
    assert list(evidence.missing.values()) == ["the guest was not asked: it is paused"]


def test_a_guest_that_has_panicked_is_not_asked(vm: VirtualMachine, tmp_path: Path) -> None:
    vm.console.send("echo c >/proc/sysrq-trigger\n")
    eventually(lambda: vm.trouble is not None, "the panic")
    evidence = collect(vm, tmp_path, about=ABOUT)
    assert {path.name for path in evidence.saved} == KNOWN_BY_US | {"screenshot.png"}
    overview = (tmp_path / "overview.txt").read_text()
    assert "trouble:    GuestPanicked: guest: the guest's kernel panicked: sysrq triggered crash" in overview
    assert "Kernel panic - not syncing: sysrq triggered crash" in (tmp_path / "console.txt").read_text()


def test_a_guest_that_does_not_answer_is_not_waited_for(vm: VirtualMachine, tmp_path: Path) -> None:
    vm.console.send("kill -STOP -1; echo sto''pped\n")  # all but the console's shell, which does that
    vm.console.expect("stopped")
    evidence = collect(vm, tmp_path, about=ABOUT)
    assert {path.name for path in evidence.saved} == KNOWN_BY_US | {"screenshot.png"}
    assert list(evidence.missing.values()) == ["the guest did not answer in time (3 s)"]


def test_all_of_a_long_console_is_there_also_of_a_machine_that_has_ended(vm: VirtualMachine, tmp_path: Path) -> None:
    lines = 21_000  # more than a console keeps in memory
    vm.run(
        f"yes 'a line of fifty characters, no more and not less' | head -n {lines} >/dev/ttyS0; echo END >/dev/ttyS0"
    )
    vm.console.expect("^END", timeout=GENEROUS)
    with vm.console.log_path.open("rb") as log:
        vm.close()
        evidence = collect(vm, tmp_path, about=ABOUT, console=log)
    assert {path.name for path in evidence.saved} == KNOWN_BY_US
    assert (tmp_path / "console.txt").read_text().count("a line of fifty") == lines
    assert "\r" not in (tmp_path / "console.txt").read_text()


def test_the_script_boots_the_guest_of_a_copy(vm: VirtualMachine, tmp_path: Path) -> None:
    assert vm.manner == "clone"
    collect(vm, tmp_path, about=ABOUT)
    vm.close()
    with subprocess.Popen(
        [tmp_path / "command.sh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as qemu:
        try:
            assert qemu.stdout is not None
            assert any(READY.encode() in line for line in qemu.stdout)
        finally:
            qemu.kill()


def test_the_capsule_comes_with_it(vm: VirtualMachine, tmp_path: Path) -> None:
    evidence = collect(vm, tmp_path, about=ABOUT, capsule=True)
    assert not evidence.missing
    assert evidence.saved[-1] == tmp_path / "machine.vmcapsule"
    assert vm.run("echo still here").stdout == "still here\n"
