"""``readonly-vm boot``, at a real terminal, on guests that are a boot sector each."""

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.accelerator import ACCEL
from tests.conftest import READY
from tests.typist import Typist

BOOT = (str(Path(sys.executable).with_name("readonly-vm")), "boot", "--memory=16M", f"--accel={ACCEL}", "--budget=off")


UP = f"\n{READY}"
"""What the screen shows when a guest is up; the word alone may be a part of its name."""


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where all temporary files of machines are."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path / f"pytest-readonly-vm-{os.getuid()}"


def test_it_is_a_terminal_of_the_guest_until_ctrl_and_bracket(boot_sector: Callable[[str], Path], room: Path) -> None:
    image = boot_sector("echo")
    before = hashlib.sha256(image.read_bytes()).digest()
    with Typist([*BOOT, str(image)]) as typist:
        typist.wait_for(rf"booting {image}, which is not written; Ctrl-\] ends the machine\r\n{READY}")
        assert len(list(room.iterdir())) == 1
        typist.type("abc\x03\r")
        typist.wait_for("abc\x03\r")
        assert typist.is_raw()
        typist.type("\x1d")
        assert typist.wait() == 0
        typist.wait_for(f"readonly-vm: the machine is ended; {image} is as it was\r\n$")
        assert not typist.is_raw()
    assert hashlib.sha256(image.read_bytes()).digest() == before
    assert list(room.iterdir()) == []


@pytest.mark.parametrize(
    ("guest", "status", "how"),
    [("powers_off", 0, "the guest has shut down"), ("panics", 1, "the guest's kernel panicked")],
)
def test_it_ends_with_the_guest(boot_sector: Callable[[str], Path], guest: str, status: int, how: str) -> None:
    with Typist([*BOOT, str(boot_sector(guest))]) as typist:
        assert typist.wait() == status, typist.seen
        typist.wait_for(UP)
        typist.wait_for(f"readonly-vm: {how}.*; ")
        assert not typist.is_raw()


def test_a_guest_may_reboot(boot_sector: Callable[[str], Path]) -> None:
    with Typist([*BOOT, str(boot_sector("resets"))]) as typist:
        typist.wait_for(UP)
        for _ in range(3):
            typist.wait_for(READY)
        typist.type("\x1d")
        assert typist.wait() == 0


def test_the_end_of_qemu_is_told(boot_sector: Callable[[str], Path], room: Path) -> None:
    with Typist([*BOOT, str(boot_sector("hello"))]) as typist:
        typist.wait_for(UP)
        os.kill(qemu_of(typist.process.pid), signal.SIGKILL)
        assert typist.wait() == 1
        typist.wait_for("readonly-vm: QEMU was killed by SIGKILL")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_machine_and_leaves_a_usable_terminal(
    boot_sector: Callable[[str], Path], room: Path, number: signal.Signals
) -> None:
    with Typist([*BOOT, str(boot_sector("hello"))]) as typist:
        typist.wait_for(UP)
        typist.signal(number)
        assert typist.wait() == 128 + number
        assert not typist.is_raw()
    assert list(room.iterdir()) == []


def test_without_a_terminal_it_goes_on_until_the_guest_ends(boot_sector: Callable[[str], Path]) -> None:
    done = subprocess.run([*BOOT, boot_sector("powers_off")], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    image = boot_sector("powers_off")
    assert (done.stdout, done.stderr) == (READY, f"readonly-vm: the guest has shut down; {image} is as it was\n")
    assert done.returncode == 0


def test_who_has_seen_enough_ends_it(boot_sector: Callable[[str], Path], room: Path) -> None:
    command = subprocess.Popen([*BOOT, boot_sector("chatter")], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    with command:
        assert command.stdout is not None
        assert command.stdout.read(13) == b"line 00000001"
        command.stdout.close()
        assert command.wait(20) == 1
    assert list(room.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "status", "complaint"),
    [
        ((), 2, "readonly-vm: there is nothing to boot: name an IMAGE, a --kernel or a --cdrom"),
        (("/nonexistent.img",), 2, "readonly-vm: IMAGE: image: /nonexistent.img: No such file or directory"),
        (("x", "--memory=1X"), 2, "readonly-vm: --memory: memory: '1X' is not a size; write it like 512M or 2G"),
        (("x", "--scope=module"), 2, "readonly-vm: unrecognized arguments: --scope=module; see readonly-vm --help"),
        (("./x", "--qemu-args=-S"), 2, "readonly-vm: --qemu-args: -S cannot be used: the guest would never start"),
        (("/dev/null",), 1, "readonly-vm: base image /dev/null (from IMAGE) is neither a file nor a block device"),
    ],
)
def test_wrong_use_is_one_line(arguments: tuple[str, ...], status: int, complaint: str) -> None:
    done = subprocess.run([*BOOT, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith(complaint)
    assert done.stderr.count("\n") == 1


def test_settings_come_from_the_environment_too(boot_sector: Callable[[str], Path]) -> None:
    env = {**os.environ, "PYTEST_VM_MACHINE": "nonsense"}
    argv = [*BOOT, str(boot_sector("powers_off"))]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=env)
    assert done.returncode == 1
    assert "unsupported machine type" in done.stderr
    done = subprocess.run([*argv, "--machine=q35"], stdin=subprocess.DEVNULL, capture_output=True, text=True, env=env)
    assert done.returncode == 0


def qemu_of(command: int) -> int:
    """The process of QEMU that this one has started."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # one that ends meanwhile
            name, _, rest = stat.read_text().partition(") ")
            if "qemu" in name and rest.split()[1] == str(command):
                return int(stat.parent.name)
    raise AssertionError("there is no QEMU")
