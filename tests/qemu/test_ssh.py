"""The channel over SSH, on a Debian that has got a key: one machine for all. Over a reboot: see `test_channel_ends`."""

import asyncio
import contextlib
import hashlib
import os
import shlex
import stat
import subprocess
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pytest_readonly_vm import Lab, VirtualMachine, VmConfig
from pytest_readonly_vm.channels.network import Network
from pytest_readonly_vm.channels.ssh import Ssh
from pytest_readonly_vm.errors import ChannelError, ChannelLost, GuestDied
from pytest_readonly_vm.guest.commands import Command
from pytest_readonly_vm.host.loop import cancel
from pytest_readonly_vm.host.process import Spawner
from pytest_readonly_vm.host.ssh_key import make_key, public_key
from tests.accelerator import ACCEL
from tests.guests.debian import debian
from tests.qemu.test_places import RESIDENT
from tests.qemu.waiting import GENEROUS, eventually
from tests.templates import templates

pytestmark = pytest.mark.timeout(900)

BOOT_SECONDS = 600


class Done(NamedTuple):
    """How a script ended, and what it printed."""

    status: int
    out: bytes = b""
    err: bytes = b""


class Bench:
    """A machine, a channel over SSH to it, and blocking ways to use one."""

    def __init__(self, vm: VirtualMachine, spawner: Spawner, key: Path) -> None:
        self.vm = vm
        self.key = key
        self._spawner = spawner
        self.network = Network(vm.loop, vm.qmp, vm.name)
        self.ssh = self.channel(vm.folder)

    def channel(self, folder: Path, *, key: Path | None = None, user: str = "root") -> Ssh:
        machine = (self._spawner, self.vm.instance.process, self.vm.qmp, self.network)
        return Ssh(*machine, folder=folder, name=self.vm.name, key=key or self.key, user=user)

    def await_(self, work: Coroutine[Any, Any, Any], timeout: float = GENEROUS) -> Any:
        async def bounded() -> Any:
            async with asyncio.timeout(timeout):
                return await work

        return self.vm.loop.run(bounded())

    def run(self, script: str | bytes, *, input: bytes = b"", timeout: float = GENEROUS) -> Done:
        out, err = bytearray(), bytearray()
        data = Command(os.fsdecode(script)).script()
        status = self.await_(self.ssh.execute(data, input=input, stdout=out.extend, stderr=err.extend), timeout)
        return Done(status, bytes(out), bytes(err))

    def read(self, path: bytes) -> bytes:
        content = bytearray()
        self.await_(self.ssh.read_file(path, content.extend))
        return bytes(content)

    def write(self, path: bytes, *pieces: bytes) -> None:
        async def content() -> AsyncIterator[bytes]:
            for piece in pieces:
                yield piece

        self.await_(self.ssh.write_file(path, content()))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    key = make_key(tmp_path_factory.mktemp("key"))
    config = VmConfig().replace(image=debian(), accel=ACCEL, boot_timeout=BOOT_SECONDS, cache=templates())
    with Lab() as lab, contextlib.ExitStack() as stack:
        vm = lab.start(config, name="guest")
        vm.run("umask 077; mkdir -p /root/.ssh; cat >>/root/.ssh/authorized_keys", input=f"\n{public_key(key)}\n")
        spawner = Spawner(vm.loop)
        stack.callback(spawner.close)
        bench = Bench(vm, spawner, key)
        bench.await_(bench.ssh.open(), BOOT_SECONDS)  # as the first login starts what a boot has left undone
        stack.callback(lambda: bench.await_(bench.ssh.close()))
        yield bench


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("true", Done(0)),
        ("exit 7", Done(7)),
        ("exit 255", Done(255)),
        ("echo out; echo err >&2", Done(0, b"out\n", b"err\n")),
        ("printf 'no newline'", Done(0, b"no newline")),
        (r"printf 'a\0b\377\0'; printf '\0\0' >&2", Done(0, b"a\0b\xff\0", b"\0\0")),
        ("kill -KILL $$", Done(137)),
        ("kill -TERM $$", Done(143)),
        ("exec >&- 2>&-; sleep 0.2; exit 3", Done(3)),
        ("no-such-command 2>/dev/null", Done(127)),
        ("printf %s 'a\"b`c$d\\e'\n\necho \"it's\"", Done(0, b"a\"b`c$d\\eit's\n")),
        (b"printf %s '\xff\x80\x81\xc3'", Done(0, b"\xff\x80\x81\xc3")),
        ("cat", Done(0)),
    ],
    ids=str,
)
def test_scripts(bench: Bench, script: str | bytes, expected: Done) -> None:
    assert bench.run(script) == expected


@pytest.mark.parametrize("victim", ["$r", "$s"], ids=["the shell", "its sshd"])
def test_a_shell_that_is_killed_is_told_and_there_is_another(bench: Bench, victim: str) -> None:
    with pytest.raises(ChannelLost, match="shell was killed"):
        bench.run(f"{RESIDENT}; read -r _ _ _ s _ </proc/$PPID/stat; kill -KILL {victim}; sleep 600")
    assert not bench.ssh.is_open()
    bench.await_(bench.ssh.open())
    assert bench.run("echo on") == Done(0, b"on\n")


def test_input_is_all_that_a_script_reads(bench: Bench) -> None:
    assert bench.run("cat; echo .", input=b"a\0b\nc") == Done(0, b"a\0b\nc.\n")
    data = os.urandom((1 << 20) + 1)  # by a session of its own
    assert bench.run("sha256sum", input=data).out.split()[0].decode() == hashlib.sha256(data).hexdigest()
    assert bench.run("true", input=data) == Done(0)


def test_a_script_of_any_length(bench: Bench) -> None:
    script = "#" * 300_000 + "\necho end; cat; ls /tmp"
    assert bench.run(script, input=b"in\n").out.splitlines()[:2] == [b"end", b"in"]
    assert b"readonly" not in bench.run("ls -A /tmp").out


def test_much_output_arrives_whole(bench: Bench) -> None:
    done = bench.run("head -c 4194304 /dev/urandom | tee /tmp/much; sha256sum </tmp/much >&2")
    assert done.err.split()[0].decode() == hashlib.sha256(done.out).hexdigest()


def test_the_shell_does_not_show_in_what_scripts_see(bench: Bench) -> None:
    done = bench.run("cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null; env; ls -l /proc/self/fd >&2")
    assert done.status == 0
    assert len(done.err.splitlines()) == 5  # a headline, three streams, the folder itself


def test_a_child_in_the_background_holds_nobody_up(bench: Bench) -> None:
    began = time.monotonic()
    assert bench.run("sleep 600 & echo early") == Done(0, b"early\n")
    assert time.monotonic() - began < GENEROUS / 2


def test_what_is_printed_later_is_nobodys(bench: Bench) -> None:
    bench.run("rm -f /tmp/go; (while [ ! -e /tmp/go ]; do sleep 0.1; done; echo late; touch /tmp/gone) & :")
    bench.run("setsid sh -c 'while [ ! -e /tmp/go ]; do sleep 0.1; done; echo late; touch /tmp/gone2' 3>&1 >&3 & :")
    waits = "touch /tmp/go; while ! [ -e /tmp/gone ] || ! [ -e /tmp/gone2 ]; do sleep 0.1; done; echo mine"
    assert bench.run(waits) == Done(0, b"mine\n")


def test_more_children_in_the_background_than_sessions(bench: Bench) -> None:
    for number in range(12):
        assert bench.run(f"sleep 600 & echo {number}") == Done(0, f"{number}\n".encode())
    assert bench.run("pkill sleep; echo on") == Done(0, b"on\n")


def test_many_at_once(bench: Bench) -> None:
    def work(number: int) -> Done:
        return bench.run(f"sleep 0.3; cat; echo {number}", input=b"in " if number % 2 else b"")

    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(work, range(16)))
    assert results == [Done(0, (b"in " if number % 2 else b"") + b"%d\n" % number) for number in range(16)]


def test_cancelling_kills_all_that_was_started(bench: Bench) -> None:
    out = bytearray()
    script = b"echo so far; sleep 7001 & setsid sleep 7002 & timeout 7003 sleep 7003 & sh -c 'sleep 7004; :'"

    async def begin() -> asyncio.Future[int]:
        return asyncio.ensure_future(bench.ssh.execute(script, input=b"", stdout=out.extend, stderr=bytes))

    running = bench.await_(begin())
    bench.run('for n in 1 2 3 4; do until pgrep -fx "sleep 700$n"; do sleep 0.1; done; done')
    bench.await_(cancel(running))
    assert bytes(out) == b"so far\n"
    assert bench.run("pgrep -f 'sleep 700[1-4]'").out == b""


def test_cancelling_spares_what_others_started(bench: Bench) -> None:
    bench.run("sleep 8001 >/dev/null 2>&1 &")
    with pytest.raises(TimeoutError):
        bench.run("sleep 8002", timeout=1)
    assert bench.run("pkill -f '[s]leep 8001' && ! pgrep -f '[s]leep 8002'") == Done(0)
    assert bench.run("echo on") == Done(0, b"on\n")


@pytest.mark.parametrize("name", [b"/tmp/plain", b"/tmp/odd 'name\"\n$x", b"/tmp/-", b"-", b"/tmp/\xff\xfe"], ids=repr)
def test_files(bench: Bench, name: bytes) -> None:
    bench.write(name, b"what was there before")
    bench.write(name, b"a\0b\n", b"c")
    assert bench.read(name) == b"a\0b\nc"


@pytest.mark.parametrize("pieces", [(), (b"",)], ids=["nothing", "empty"])
def test_a_file_without_content(bench: Bench, pieces: tuple[bytes, ...]) -> None:
    bench.write(b"/tmp/plain", b"what was there before")
    bench.write(b"/tmp/plain", *pieces)
    assert bench.read(b"/tmp/plain") == b""


def test_large_files_go_piece_by_piece(bench: Bench) -> None:
    piece = os.urandom(1 << 16)
    bench.write(b"/tmp/large", *[piece] * 64)
    digest = hashlib.sha256(piece * 64).hexdigest()
    assert bench.run("sha256sum </tmp/large").out.split()[0].decode() == digest
    largest, reading = 0, hashlib.sha256()

    def take(data: bytes) -> None:
        nonlocal largest
        largest = max(largest, len(data))
        reading.update(data)

    bench.await_(bench.ssh.read_file(b"/tmp/large", take))
    assert reading.hexdigest() == digest
    assert largest <= 1 << 20


def test_files_that_cannot_be(bench: Bench) -> None:
    for path, error in ((b"/tmp/none/x", FileNotFoundError), (b"/tmp", IsADirectoryError), (b"/etc/passwd/x", OSError)):
        with pytest.raises(error) as reading:
            bench.read(path)
        with pytest.raises(error) as writing:
            bench.write(path, b"x" * (1 << 20))
        assert reading.value.filename == writing.value.filename == os.fsdecode(path)
    with pytest.raises(OSError, match="No space left"):
        bench.write(b"/dev/full", b"x")


def test_a_file_goes_beside_commands(bench: Bench) -> None:
    reading = asyncio.run_coroutine_threadsafe(bench.ssh.read_file(b"/dev/zero", bytes), bench.vm.loop.loop)
    assert bench.run("until pgrep -x cat; do sleep 0.1; done >/dev/null; echo on") == Done(0, b"on\n")
    reading.cancel()
    assert bench.run("while pgrep -x cat; do sleep 0.1; done >/dev/null") == Done(0)


def test_a_file_whose_program_is_killed_is_no_file(bench: Bench) -> None:
    reading = asyncio.run_coroutine_threadsafe(bench.ssh.read_file(b"/dev/zero", bytes), bench.vm.loop.loop)
    bench.run("until pkill -x cat; do sleep 0.1; done")
    with pytest.raises(OSError, match="/dev/zero"):
        reading.result(GENEROUS)


def test_an_sshd_that_gives_no_more_than_one_session(bench: Bench, tmp_path: Path) -> None:
    bench.run("echo MaxSessions 1 >/etc/ssh/sshd_config.d/one.conf; systemctl reload ssh")
    channel = bench.channel(tmp_path)
    bench.await_(channel.open())
    bench.run("rm /etc/ssh/sshd_config.d/one.conf; systemctl reload ssh")
    bench.ssh, usual = channel, bench.ssh
    try:
        bench.write(b"/tmp/one", b"a\0b\n", b"c")
        assert bench.read(b"/tmp/one") == b"a\0b\nc"
        assert bench.run("cat /tmp/one") == Done(0, b"a\0b\nc")
    finally:
        bench.ssh = usual
        bench.await_(channel.close())


@pytest.mark.parametrize(
    ("shell", "words"),
    [
        ("/usr/sbin/nologin", "exit code 1 in place of running /bin/sh: This account is currently not available."),
        ("/usr/bin/python3", "exit code 1 in place of running /bin/sh: SyntaxError: invalid syntax"),
        ("/bin/false", "exit code 1 in place of running /bin/sh"),
    ],
)
def test_a_login_shell_that_is_no_shell_is_told_at_once(bench: Bench, tmp_path: Path, shell: str, words: str) -> None:
    user = Path(shell).name
    bench.run(f"echo '{user}:*:0:0::/root:{shell}' >>/etc/passwd")
    channel = bench.channel(tmp_path, user=user)
    with pytest.raises(ChannelError) as refusal:
        bench.await_(channel.open())
    assert str(refusal.value).startswith(f"guest: ssh: {user} was let in, but ")
    assert str(refusal.value).endswith(words)
    assert str(refusal.value).endswith(channel.why_not())
    assert channel.forward is None


def key_with_a_command(bench: Bench, folder: Path, command: str) -> Path:
    key = make_key(folder)
    line = f'command="{command}" {public_key(key)}\n'
    bench.run("cat >>/root/.ssh/authorized_keys", input=line.encode())
    return key


def test_a_key_for_one_command_only_is_told_at_once(bench: Bench, tmp_path: Path) -> None:
    command = "echo 'Please log in as debian, not as root.'; echo; exit 142"
    channel = bench.channel(tmp_path, key=key_with_a_command(bench, tmp_path, command))
    with pytest.raises(ChannelError, match="exit code 142 in place of running /bin/sh: Please log in as debian, not"):
        bench.await_(channel.open())


def test_a_key_for_a_shell_only_will_do(bench: Bench, tmp_path: Path) -> None:
    channel = bench.channel(tmp_path, key=key_with_a_command(bench, tmp_path, "/bin/sh"))
    bench.await_(channel.open())
    bench.ssh, usual = channel, bench.ssh
    data = os.urandom(1 << 16)
    try:
        bench.write(b"/tmp/forced", data)
        assert bench.read(b"/tmp/forced") == data
        assert bench.run("cat; exit 3", input=data) == Done(3, data)
    finally:
        bench.ssh = usual
        bench.await_(channel.close())


def test_content_that_fails_is_not_hidden(bench: Bench) -> None:
    async def content() -> AsyncIterator[bytes]:
        yield b"some"
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        bench.await_(bench.ssh.write_file(b"/tmp/partial", content()))
    assert bench.run("echo on") == Done(0, b"on\n")


def test_others_can_log_in(bench: Bench, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(bench.ssh.ssh_config("guest"))
    for command in (shlex.split(bench.ssh.ssh_command()), ["ssh", "-F", str(config), "guest"]):
        done = subprocess.run([*command, "hostname"], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "debian\n", "")


def test_what_lies_on_the_host_is_private(bench: Bench) -> None:
    assert stat.S_IMODE(bench.key.stat().st_mode) == 0o600
    assert stat.S_IMODE(bench.vm.folder.stat().st_mode) == 0o700
    assert "ssh-ed25519" in (bench.vm.folder / "known_hosts").read_text()
    assert bench.ssh.forward
    assert bench.ssh.forward.host == "127.0.0.1"


def reason_of_failure(bench: Bench, channel: Ssh, expected: str) -> None:
    """Open a channel that cannot be, until it gives the expected reason."""
    opening = asyncio.run_coroutine_threadsafe(channel.open(), bench.vm.loop.loop)
    try:
        eventually(lambda: expected in channel.why_not(), f"{expected} for a reason")
    finally:
        opening.cancel()
        eventually(opening.done, "the end of a cancelled attempt")
        bench.await_(channel.close())
    assert channel.forward is None


def test_a_key_that_is_not_accepted(bench: Bench, tmp_path: Path) -> None:
    channel = bench.channel(tmp_path, key=make_key(tmp_path))
    reason_of_failure(bench, channel, "permission denied for root with the key of the run")


def test_another_host_key(bench: Bench, tmp_path: Path) -> None:
    channel = bench.channel(tmp_path)
    other = public_key(make_key(tmp_path))
    # The port is known only once it is open, and the guest's key is pinned on the first contact.
    (tmp_path / "known_hosts").write_text(f"[127.0.0.1]:* {other}\n")
    reason_of_failure(bench, channel, "the guest has another host key than before")


def test_no_sshd(bench: Bench, tmp_path: Path) -> None:
    bench.run("systemctl stop ssh.socket ssh.service 2>/dev/null; :")
    try:
        reason_of_failure(bench, bench.channel(tmp_path), "connection refused (is sshd installed?)")
    finally:
        assert bench.run("systemctl start ssh.service").status == 0


def test_no_ssh_on_this_computer(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    channel = bench.channel(tmp_path)
    with pytest.raises(ChannelError, match="ssh is not installed on this computer: package openssh-client"):
        bench.await_(channel.open())


def test_close_leaves_nothing_behind(bench: Bench, tmp_path: Path) -> None:
    channel = bench.channel(tmp_path)
    bench.await_(channel.open())
    master, forward = channel._master, channel.forward
    assert master
    assert forward
    bench.await_(channel.close())
    assert master.returncode is not None
    usernet = bench.vm.qmp.execute("human-monitor-command", command_line="info usernet")
    assert not [line for line in usernet.splitlines() if "HOST_FORWARD" in line and str(forward.port) in line]
    with pytest.raises(ChannelError, match="not open"):
        channel.ssh_command()


def test_the_end_of_qemu_under_a_script_and_a_file(bench: Bench) -> None:
    works = (
        bench.ssh.execute(b"touch /tmp/begun; sleep 600", input=b"", stdout=bytes, stderr=bytes),
        bench.ssh.read_file(b"/dev/zero", bytes),
    )
    running = [asyncio.run_coroutine_threadsafe(work, bench.vm.loop.loop) for work in works]
    bench.run("until [ -e /tmp/begun ]; do sleep 0.1; done")
    bench.vm.kill()
    for work in running:
        with pytest.raises(GuestDied, match="SIGKILL"):
            work.result(GENEROUS)
