"""Owns two hosts on loopback: SSH servers with keys, homes, caches, runtime folders and checkouts of their own."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest_readonly_vm
from tests.ports import port_to_come
from tests.processes import about, parent_of, pids
from tests.qemu.waiting import eventually

_MARK = "READONLY_VM_TEST_HOST"


def _key(path: Path) -> str:
    if not path.exists():
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path.with_suffix(".pub").read_text()


@dataclass
class SshHost:
    """One of them. What is started on it carries a mark in its environment, by which it is found."""

    name: str
    folder: Path
    config: Path
    """Of ssh, for all hosts."""
    key: Path
    port: int = field(default_factory=port_to_come)
    _server: "subprocess.Popen[bytes] | None" = None

    @property
    def checkout(self) -> Path:
        return self.folder / "checkout"

    @property
    def cache(self) -> Path:
        return self.folder / "home/.cache/pytest-readonly-vm"

    def describe(self) -> str:
        """For the configuration of ssh."""
        known = self.folder / "known_hosts"
        known.write_text(f"[127.0.0.1]:{self.port} {_key(self.folder / 'host_key')}")
        lines = {
            "HostName": "127.0.0.1",
            "Port": self.port,
            "IdentityFile": self.key,
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": known,
            "StrictHostKeyChecking": "yes",
        }
        return f"Host {self.name}\n" + "".join(f"  {name} {value}\n" for name, value in lines.items())

    def start(self) -> None:
        for name in ("home/.cache", "run", "tmp", "checkout"):
            (self.folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        environment = {
            "HOME": self.folder / "home",
            "XDG_CACHE_HOME": self.folder / "home/.cache",
            "XDG_RUNTIME_DIR": self.folder / "run",
            "TMPDIR": self.folder / "tmp",
            "PATH": os.environ["PATH"],
            "PYTHONPATH": Path(pytest_readonly_vm.__file__).parent.parent,
            _MARK: self.folder,
        }
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # which sshd wants when it is root's
        configuration = self.folder / "sshd_config"
        configuration.write_text(
            f"ListenAddress 127.0.0.1\nPort {self.port}\nHostKey {self.folder / 'host_key'}\n"
            f"AuthorizedKeysFile {self.key.with_suffix('.pub')}\nStrictModes no\nUsePAM no\nPidFile none\n"
            "PasswordAuthentication no\nPermitRootLogin prohibit-password\nSubsystem sftp internal-sftp\n"
            f"SetEnv {' '.join(f'{name}={value}' for name, value in environment.items())}\n"
        )
        program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
        assert program, "install what tests/guests/packages.txt has"
        with (self.folder / "log").open("ab") as log:
            self._server = subprocess.Popen([program, "-D", "-e", "-f", configuration], stderr=log)
        eventually(self._answers, f"{self.name} answers\n{(self.folder / 'log').read_text()}")

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1) as one:
            return one.recv(4) == b"SSH-"
        return False

    def sessions(self) -> list[int]:
        """The processes of the server, one for each connection."""
        assert self._server
        return [pid for pid in pids() if parent_of(pid) == self._server.pid]

    def hang_up(self) -> None:
        """End all connections as they are."""
        for pid in self.sessions():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    @contextlib.contextmanager
    def silence(self) -> Iterator[None]:
        """The connections of this moment carry nothing any more, and nobody is told; with the block they end."""
        silent = self.sessions()
        for pid in silent:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in silent:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def stop(self) -> None:
        """The server ends, and all its connections."""
        if self._server is None:
            return
        sessions = self.sessions()
        self._server.kill()
        self._server.wait()
        for pid in sessions:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._server = None

    def processes(self) -> list[int]:
        """What runs on it."""
        mark = f"{_MARK}={self.folder}".encode()
        return [pid for pid in pids() if mark in about(pid, "environ").split(b"\0")]

    def left(self) -> list[str]:
        """What a run has left: files but for caches and the checkout as it was, and processes."""
        found = [f"process {about(pid, 'cmdline')!r}" for pid in self.processes()]
        for name in ("run", "tmp", "checkout"):
            for path in (self.folder / name).rglob("*"):
                if path.is_file() and "__pycache__" not in path.parts and path not in self._known:
                    found.append(str(path))
        return found

    def put(self, files: Mapping[str, str | bytes]) -> None:
        """A checkout of these files."""
        shutil.rmtree(self.checkout)
        self.checkout.mkdir()
        for name, content in files.items():
            (self.checkout / name).write_bytes(content.encode() if isinstance(content, str) else content)
        self._known = set(self.checkout.rglob("*"))

    _known: set[Path] = field(default_factory=set)

    def spec(
        self,
        workers: int = 1,
        *,
        ssh: str = "",
        python: str = sys.executable,
        chdir: Path | None = None,
        more: str = "",
    ) -> str:
        """What ``--tx`` is given."""
        words = f"-F {self.config} {ssh} {self.name}"
        return f"{workers}*ssh={words}//python={python}//chdir={chdir or self.checkout}{more}"


@dataclass
class Pair:
    """Two hosts, and the folder of the controller."""

    first: SshHost
    second: SshHost
    controller: Path

    def __iter__(self) -> Iterator[SshHost]:
        return iter((self.first, self.second))

    def put(self, files: Mapping[str, str | bytes]) -> None:
        """The same checkout everywhere, with nothing of an earlier run on the controller."""
        for host in self:
            host.put(files)
        shutil.rmtree(self.controller, ignore_errors=True)
        shutil.copytree(self.first.checkout, self.controller)


@contextlib.contextmanager
def one_host(folder: Path) -> Iterator[SshHost]:
    """``hostA`` alone."""
    _key(folder / "key")
    (folder / "hostA").mkdir()
    host = SshHost("hostA", folder / "hostA", folder / "ssh_config", folder / "key")
    host.config.write_text(host.describe())
    try:
        host.start()
        yield host
    finally:
        host.stop()


@contextlib.contextmanager
def pair_of_hosts(folder: Path) -> Iterator[Pair]:
    """``hostA`` and ``hostB``."""
    config, key = folder / "ssh_config", folder / "key"
    _key(key)
    hosts = []
    with contextlib.ExitStack() as stack:
        for name in ("hostA", "hostB"):
            (folder / name).mkdir()
            hosts.append(SshHost(name, folder / name, config, key))
            config.write_text("\n".join(host.describe() for host in hosts))
            stack.callback(hosts[-1].stop)
            hosts[-1].start()
        yield Pair(hosts[0], hosts[1], folder / "controller")
