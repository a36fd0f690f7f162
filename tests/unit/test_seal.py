"""What Landlock lets through and what not: tried with real processes, as root too."""

import secrets
import socket
import subprocess
import sys
from pathlib import Path
from typing import Protocol

import pytest

from pytest_readonly_vm import SealUnavailable
from pytest_readonly_vm.host import seal
from pytest_readonly_vm.host.seal import Bounds, Landlock, choose_seal, landlock_abi, restrict_self


class Try(Protocol):
    def __call__(self, command: str, *, tcp: bool = False) -> str: ...


pytestmark = pytest.mark.skipif(not landlock_abi(), reason="this kernel has no Landlock, so there is nothing to try")


@pytest.fixture
def confined(tmp_path: Path) -> Try:
    """Run a shell command under a ruleset that allows writing below ``tmp_path/own``; what it complains about."""
    (tmp_path / "own").mkdir()
    (tmp_path / "base").write_text("precious")

    def attempt(command: str, *, tcp: bool = False) -> str:
        ruleset = Landlock(Bounds(folder=tmp_path / "own", tcp=tcp))
        try:
            done = subprocess.run(
                ["sh", "-c", command],
                cwd=tmp_path,
                capture_output=True,
                text=True,
                check=False,
                preexec_fn=lambda: restrict_self(ruleset.fd),
            )
        finally:
            ruleset.close()
        return done.stderr

    return attempt


@pytest.mark.parametrize(
    "command",
    [
        "cat base",
        "echo x > own/x",
        "mkdir own/d && mv own/d own/e && rmdir own/e",
        "echo x > /dev/null",
        "rm -rf own/*",
    ],
)
def test_reading_and_its_own_folder_are_allowed(confined: Try, command: str) -> None:
    assert confined(command) == ""


@pytest.mark.parametrize(
    "command",
    [
        "echo x > base",
        "echo x >> base",
        "truncate -s 0 base",
        "rm base",
        "mv base own/",
        "echo x > new",
        "mkdir new",
        "ln -s base new",
        "ln base own/base",
        "sh -c 'echo x > base'",
    ],
)
def test_every_other_write_is_denied(confined: Try, tmp_path: Path, command: str) -> None:
    complaint = confined(command)
    assert "ermission denied" in complaint or "cross-device" in complaint
    assert (tmp_path / "base").read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "own"]


@pytest.mark.skipif(landlock_abi() < 6, reason="this kernel's Landlock knows of no sockets and signals")
def test_others_are_not_reached_by_sockets_or_signals(confined: Try) -> None:
    name = f"readonly-vm-{secrets.token_hex(8)}"
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_UNIX) as abstract,
        subprocess.Popen(["sleep", "600"]) as bystander,
    ):
        try:
            abstract.bind(f"\0{name}")
            abstract.listen()
            connect = f"{sys.executable} -c 'import socket; socket.{{}}'"
            tcp = connect.format(f'create_connection(("127.0.0.1", {server.getsockname()[1]}))')
            assert "PermissionError" in confined(tcp)
            assert "PermissionError" in confined(connect.format('create_server(("127.0.0.1", 0))'))
            assert confined(tcp, tcp=True) == ""
            assert "PermissionError" in confined(connect.format(f'socket(1).connect("\\0{name}")'), tcp=True)
            assert "not permitted" in confined(f"kill -TERM {bystander.pid}", tcp=True)
            assert bystander.poll() is None
        finally:
            bystander.kill()


def test_every_kernel_is_asked_for_what_it_knows() -> None:
    """A kernel refuses bits, and bytes, that it does not know."""
    sizes = [len(seal._attributes(abi, tcp=False)) for abi in range(1, 8)]
    assert sizes == [8, 8, 8, 16, 16, 24, 24]
    rights = [int.from_bytes(seal._attributes(abi, tcp=True)[:8], "little").bit_length() for abi in range(1, 8)]
    assert rights == [13, 14, 15, 15, 16, 16, 16]


def test_require_says_what_is_missing() -> None:
    with pytest.raises(SealUnavailable, match=r"seal=require \(from --vm-seal\).*without its seccomp sandbox"):
        choose_seal("require", has_sandbox=False, origin="--vm-seal")


def test_a_kernel_without_landlock_is_told_apart() -> None:
    """Under a seccomp-less stand-in for such a kernel: a child in which the system call does not exist."""
    code = (
        "import ctypes\n"
        "from pytest_readonly_vm.host import seal\n"
        "seal._SYS_CREATE_RULESET = 100000\n"
        "print(seal.landlock_abi(), seal.choose_seal('auto', has_sandbox=True, origin='').describe())\n"
        "try:\n"
        "    seal.choose_seal('require', has_sandbox=True, origin='x')\n"
        "except Exception as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "0 read-only descriptors, no Landlock, seccomp sandbox",
        "seal=require (from x) cannot be had: this kernel has no Landlock (5.13 or later, enabled at boot)",
    ]
