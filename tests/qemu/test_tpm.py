"""A machine's TPM: its own, what is in it goes on in its copies, and nothing of it is left."""

import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pytest_readonly_vm import ConfigurationError, Lab, VirtualMachine, VmConfig
from pytest_readonly_vm.errors import HostError
from pytest_readonly_vm.evidence.capsule.opened import open_capsule
from pytest_readonly_vm.evidence.capsule.resume import resume_capsule
from pytest_readonly_vm.evidence.capsule.save import save_capsule
from tests.accelerator import ACCEL
from tests.guests.tiny_uefi import tiny_uefi
from tests.qemu.waiting import GENEROUS, eventually
from tests.templates import templates

REGISTER = "cat /sys/class/tpm/tpm0/pcr-sha256/16"
EMPTY = "0" * 64
# TPM2_PCR_Extend of register 16 with an empty authorization and a SHA-256, in octal as a shell's printf has it.
_COMMAND = r"\200\002\0\0\0\101\0\0\001\202\0\0\0\020\0\0\0\011\100\0\0\011\0\0\0\0\0\0\0\0\001\0\013"
_SEND = "exec 3<>/dev/tpm0; cat /tmp/command >&3; head -c 19 <&3 | od -An -tx1"
EXTEND = f"printf '{_COMMAND}'{'x' * 32} >/tmp/command; {_SEND}"


def config(**settings: object) -> VmConfig:
    """By a BIOS, which takes half the time."""
    guest = tiny_uefi()
    files = {"image": guest.disk, "kernel": guest.kernel, "initrd": guest.initrd, "append": guest.append}
    known = {"memory": "256M", "accel": ACCEL, "boot_timeout": GENEROUS, "cache": templates(), "tpm": True}
    return VmConfig().replace(**files | known | {"start": "clone", "seal": "require"} | settings)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


def register(vm: VirtualMachine) -> str:
    return vm.run(REGISTER).stdout.strip()


def emulators(folder: Path) -> list[str]:
    """The processes of swtpm whose state is below a folder."""
    return [line for path in Path("/proc").glob("[0-9]*/cmdline") if f"dir={folder}" in (line := _text(path))]


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def test_what_is_measured_goes_on_in_copies_and_is_nobody_elses(lab: Lab, tmp_path: Path) -> None:
    with closing(lab.start(config(), name="tiny")) as vm:
        assert (vm.manner, register(vm)) == ("clone", EMPTY)
        vm.run(EXTEND)
        once = register(vm)
        assert once != EMPTY
        with closing(lab.start(config(), name="another")) as another:
            assert register(another) == EMPTY
        with vm.checkpoint():
            vm.run(EXTEND)
            twice = register(vm)
            with vm.fork() as (fork,):
                assert register(fork) == twice != once
            save_capsule(vm, tmp_path / "tiny.vmcapsule")
        assert register(vm) == once
        vm.reset()
        assert register(vm) == EMPTY
    with Lab() as elsewhere, open_capsule(tmp_path / "tiny.vmcapsule") as capsule:
        assert register(resume_capsule(elsewhere, capsule)) == twice


def test_nothing_is_left_of_it(small: Callable[..., VmConfig], tmp_path: Path) -> None:
    with Lab() as lab:
        vm = lab.start(small("hello", tpm=True, tmpdir=tmp_path), name="guest")
        assert len(emulators(tmp_path)) == 1
        vm.close()
        assert not emulators(tmp_path)
        assert not vm.folder.exists()


KILLED = """
    import sys

    from pytest_readonly_vm import Lab, VmConfig

    image, accel, folder = sys.argv[1:]
    config = VmConfig().replace(image=image, accel=accel, tmpdir=folder, memory="16M", ready="none", tpm=True)
    lab = Lab()
    lab.start(config.replace(start="cold"), name="guest")
    print("started", flush=True)
    sys.stdin.read()
"""


def test_it_dies_with_a_run_that_is_killed(boot_sector: Callable[[str], Path], tmp_path: Path) -> None:
    argv = [sys.executable, "-c", textwrap.dedent(KILLED), str(boot_sector("hello")), ACCEL, str(tmp_path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "started\n"
        assert len(emulators(tmp_path)) == 1
        run.send_signal(signal.SIGKILL)
    eventually(lambda: not emulators(tmp_path), "the TPM has ended with the run")


def test_it_is_missing_in_a_sentence(
    small: Callable[..., VmConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with Lab() as lab:
        with pytest.raises(ConfigurationError, match="tpm=on: x86_64 machines of the type isapc have no TPM"):
            lab.start(small("hello", tpm=True, machine="isapc"), name="guest")
        monkeypatch.setattr("pytest_readonly_vm.qemu.tpm._PROGRAM", "swtpm-that-is-not-there")
        with pytest.raises(HostError, match="tpm=on needs swtpm, which is not installed: on Debian"):
            lab.start(small("hello", tpm=True), name="guest")
