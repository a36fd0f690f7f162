"""Guests that nobody prepared, told from outside to open a root shell: each way on the guests that know it."""

import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from pytest_readonly_vm import Lab, VirtualMachine, VmConfig
from pytest_readonly_vm.channels.shell import PORT
from pytest_readonly_vm.machine.provision import provision
from tests.guests import tools
from tests.guests.alpine import alpine
from tests.guests.debian import debian
from tests.guests.disk import PARTITION_START
from tests.guests.tiny_linux import tiny_linux
from tests.qemu.waiting import eventually

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFakeFakeFakeFakeFakeFakeFakeFakeFakeFakeFa run@host"


class Guest(NamedTuple):
    """A machine that has opened our port, and the port's other end."""

    vm: VirtualMachine
    port: socket.socket

    def ask(self, command: str) -> str:
        """What a command prints in the shell on the port."""
        self.port.sendall(f"{{ {command}\n}} 2>&1; echo; echo E''ND\n".encode())
        answer = b""
        while not answer.endswith(b"\nEND\n"):
            piece = self.port.recv(1 << 16)
            assert piece, "QEMU has let go of the port"
            answer += piece
        return answer.decode().removesuffix("END\n").strip()


@pytest.fixture
def provided(tmp_path: Path) -> Iterator[Callable[[VmConfig], Guest]]:
    """Boot with what `provision` says, and return as soon as the guest has opened the port."""
    with Lab() as lab, ExitStack() as stack:
        # tmp_path is too long for a socket's name.
        folder = stack.enter_context(tempfile.TemporaryDirectory())

        def boot(config: VmConfig) -> Guest:
            done = provision(config, key=KEY, folder=tmp_path, arch="x86_64", bus="pci")
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(f"{folder}/port")
            listener.listen()
            port = (
                "-chardev", f"socket,id=shell,path={folder}/port",
                "-device", "virtio-serial-pci,id=own",
                "-device", f"virtserialport,bus=own.0,nr=2,chardev=shell,name={PORT},id=shell",
            )  # fmt: skip
            plain = config.replace(channel="none", provision="none", user_data=None, append=done.append)
            plain = plain.replace(qemu_args=[*port, *done.qemu_args], ready="event:VSERPORT_CHANGE", seal="off")
            vm = lab.start(plain.replace(accel="tcg"), name="guest")
            stack.callback(vm.close)
            connection = stack.enter_context(listener.accept()[0])
            connection.settimeout(60)
            return Guest(vm, connection)

        yield boot


@pytest.fixture
def debians_kernel(tmp_path: Path) -> dict[str, Path]:
    """Kernel and initial RAM disk of the Debian guest, taken out of its image."""
    raw = tmp_path / "raw"
    tools.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", debian(), raw])
    system = f"{raw}?offset={PARTITION_START}"
    names = tools.run(["debugfs", "-R", "ls -p /boot", system]).split("/")
    files = {"kernel": "vmlinuz-", "initrd": "initrd.img-"}
    for setting, start in files.items():
        name = next(name for name in names if name.startswith(start))
        tools.run(["debugfs", "-R", f"dump /boot/{name} {tmp_path / setting}", system])
    raw.unlink()
    return {setting: tmp_path / setting for setting in files}


def test_busybox_in_an_initramfs_from_the_kernel_command_line(provided: Callable[[VmConfig], Guest]) -> None:
    tiny = tiny_linux()
    guest = provided(VmConfig(kernel=tiny.kernel, initrd=tiny.initrd, append=tiny.append, memory=256 << 20))
    assert guest.ask("echo $((6*7)); pwd") == "42\n/"
    guest.vm.console.expect("tiny: ready", timeout=60)
    # The shell has a session of its own, and another comes when it ends.
    first = guest.ask("echo $$; cut -d' ' -f6 /proc/$$/stat").split()
    assert first[0] == first[1]
    guest.vm.qmp.forget_events()
    guest.port.sendall(b"exit\n")
    guest.vm.qmp.wait_event("VSERPORT_CHANGE", match={"id": "shell", "open": True}, timeout=60)
    assert guest.ask("echo $$") != first[0]


def test_alpine_from_the_kernel_command_line(provided: Callable[[VmConfig], Guest]) -> None:
    guest = alpine()
    config = VmConfig(image=guest.disk, kernel=guest.kernel, initrd=guest.initrd, append=guest.append)
    shell = provided(config)
    assert shell.ask("echo $((6*7)); . /etc/os-release; echo $ID") == "42\nalpine"
    assert shell.ask("cat /proc/1/cmdline | tr '\\0' ' '") == "/sbin/init"


def test_debian_from_the_kernel_command_line(
    provided: Callable[[VmConfig], Guest], debians_kernel: dict[str, Path]
) -> None:
    append = "root=LABEL=debian ro console=ttyS0 quiet"
    guest = provided(VmConfig().replace(image=debian(), append=append, **debians_kernel))
    assert guest.ask("echo $((6*7))") == "42"
    # This shell is older than systemd, and so not known to it.
    eventually(lambda: guest.ask("systemctl is-system-running --wait") == "running", "Debian to be up")
    assert KEY in guest.ask("cat /root/.ssh/authorized_keys")


def test_debian_by_its_own_bootloader_from_systemds_credentials(provided: Callable[[VmConfig], Guest]) -> None:
    guest = provided(VmConfig(image=debian(), provision="systemd"))
    assert guest.ask("echo $((6*7)); pwd") == "42\n/"
    assert guest.ask("systemctl is-system-running --wait") == "running"
    assert KEY in guest.ask("cat /root/.ssh/authorized_keys")
    assert guest.ask("stat -c '%a %U' /root/.ssh /root/.ssh/authorized_keys") == "700 root\n600 root"
    # What a command of a service would not have, but a user's has.
    assert guest.ask("grep -E 'SigIgn' /proc/$$/status").split()[1] == "0" * 16
    assert guest.ask("ls /etc/systemd/system /etc/udev/rules.d | grep readonly") == ""


def test_debian_from_a_seed_for_cloud_init(provided: Callable[[VmConfig], Guest], tmp_path: Path) -> None:
    user_data = tmp_path / "user-data"
    other_key = KEY.replace("Fake", "User")
    user_data.write_text(
        f"#cloud-config\nssh_authorized_keys: ['{other_key}']\ndisable_root: false\n"
        "bootcmd: [[touch, /run/early]]\nruncmd: [[touch, /run/late]]\n"
    )
    guest = provided(VmConfig(image=debian(), provision="cloud-init", user_data=user_data))
    assert guest.ask("echo $((6*7))") == "42"
    assert guest.ask("cloud-init status --wait").endswith("status: done")
    assert guest.ask("ls /run/early /run/late") == "/run/early\n/run/late"
    keys = guest.ask("cat /root/.ssh/authorized_keys").splitlines()
    assert {KEY, other_key} <= set(keys)
