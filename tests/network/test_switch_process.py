"""The switch is a process that can do nothing but pass frames on, and is gone when the one that started it is."""

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_readonly_vm import Lab, NetworkError, StartFailed, SwitchDied
from pytest_readonly_vm.host.seal import landlock_abi
from pytest_readonly_vm.host.workspace import COOKIE
from pytest_readonly_vm.machine.private_network import PrivateNetwork
from pytest_readonly_vm.network import switch_process
from tests.descriptors import descriptors
from tests.network.frames import frame, mac
from tests.network.plugs import Plugs, ask, on_loop, plugged
from tests.qemu.waiting import GENEROUS, as_promised

# In the place of the switch, started by the same lines: it tries what a switch that a guest has taken over would.
TAKEN_OVER = """\
import json, os, socket, sys
def attempt(what):
    try:
        what()
    except OSError as error:
        return type(error).__name__
    return "done"
def listening():
    with socket.create_server(("127.0.0.1", 0)): pass
line = socket.socket(fileno=int(sys.argv[1]))
request = json.loads(line.recv(1 << 16))
folder, port = request["folder"], request["port"]
told = {
    "make a file": attempt(lambda: open(folder + "/new", "x")),
    "make a folder": attempt(lambda: os.mkdir(folder + "/new")),
    "write a file": attempt(lambda: open(folder + "/there", "r+b")),
    "empty a file": attempt(lambda: os.truncate(folder + "/there", 0)),
    "remove a file": attempt(lambda: os.unlink(folder + "/there")),
    "write a device": attempt(lambda: open("/dev/null", "wb")),
    "listen by TCP": attempt(listening),
    "connect by TCP": attempt(lambda: socket.create_connection(("127.0.0.1", port))),
    "signal who started it": attempt(lambda: os.kill(os.getppid(), 0)),
}
line.send(json.dumps({"id": request["id"], "result": told}).encode())
line.recv(1)
"""

PARENT = """\
import socket, sys
from pytest_readonly_vm import Lab
from tests.network.plugs import plugged
line = socket.socket(fileno=int(sys.argv[1]))
with Lab() as lab:
    lan = lab.networks.make("lan")
    with plugged(lan, "one", "two") as plugs:
        socket.send_fds(line, [str(lan.pid).encode()], [plug.socket.fileno() for plug in plugs.values()])
        line.recv(1)
"""


@pytest.mark.skipif(landlock_abi() < 6, reason="this kernel's Landlock knows of no TCP and signals")
def test_a_switch_that_a_guest_has_taken_over_can_change_nothing(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").write_text("whole")
    monkeypatch.setattr(switch_process, "_START", TAKEN_OVER.replace("{", "{{").replace("}", "}}"))
    network = lab.networks.make("lan")
    with socket.create_server(("127.0.0.1", 0)) as server:
        told = ask(network, "try", folder=str(tmp_path), port=server.getsockname()[1])
    lab.networks.end(network)
    assert told == dict.fromkeys(told, "PermissionError")
    assert len(told) == 9
    assert (tmp_path / "there").read_text() == "whole"


def test_a_switch_has_what_it_needs_and_nothing_of_its_parents(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "very secret")
    with (tmp_path / "of its parent").open("w") as opened:
        os.set_inheritable(opened.fileno(), True)
        network = lab.networks.make("lan")
        with plugged(network, "one", "two"):
            process = Path(f"/proc/{network.pid}")
            kinds = [str(link.readlink()).partition(":")[0] for link in (process / "fd").iterdir()]
            environment = (process / "environ").read_bytes().split(b"\0")
            words = (process / "cmdline").read_bytes()
        lab.networks.end(network)
    assert sorted(kinds) == ["/dev/null", "/dev/null", "anon_inode", "pipe", "socket", "socket", "socket"]
    assert {name.partition(b"=")[0] for name in environment} <= {b"", COOKIE.encode(), b"LD_LIBRARY_PATH"}
    assert b"secret" not in words


def test_networks_leave_no_descriptor_and_no_process(lab: Lab) -> None:
    lab.networks.end(lab.networks.make("lan"))
    before = descriptors()
    for _ in range(5):
        network = lab.networks.make("lan")
        with plugged(network, "one", "two"):
            ask(network, "ports")
        lab.networks.end(network)
        lab.networks.end(network)
        with pytest.raises(ProcessLookupError):
            os.kill(network.pid, 0)
    assert not descriptors() - before


def test_who_asks_a_switch_that_has_been_killed_hears_how_it_ended(plugs: Plugs) -> None:
    os.kill(plugs.lan.pid, signal.SIGKILL)
    with pytest.raises(SwitchDied, match=r"network lan of \w+: its switch was killed by SIGKILL; every connection"):
        ask(plugs.lan, "ports")


def test_what_brings_a_switch_to_its_end_is_in_the_error(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switch_process, "_START", "import sys; sys.exit('no such thing here')")
    network = lab.networks.make("lan", owner="a test")
    with pytest.raises(SwitchDied, match="exited with status 1: no such thing here; every") as caught:
        ask(network, "ports")
    assert caught.value.__notes__ == ["the switch's stderr:\nno such thing here"]
    lab.networks.end(network)


def test_that_there_are_no_descriptors_left_is_told(
    lab: Lab, lan: PrivateNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    member = lan.join("one", card=1)
    with monkeypatch.context() as without:
        without.setattr(socket, "socketpair", refuse)
        with pytest.raises(
            StartFailed, match=r"^network other: its switch could not be started: this process may have"
        ):
            lab.networks.make("other")
        with pytest.raises(NetworkError, match=r"^network lan of \w+: no line to one: this process may have no more"):
            on_loop(lan, lambda: lan.connect(member))


@contextlib.contextmanager
def in_another_process() -> Iterator[tuple[subprocess.Popen[bytes], int, list[socket.socket]]]:
    """A network that another process has: that, the process of the switch, and two plugs."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with (
        ours,
        its,
        subprocess.Popen([sys.executable, "-c", PARENT, str(its.fileno())], pass_fds=(its.fileno(),)) as run,
    ):
        its.close()
        try:
            ours.settimeout(GENEROUS)
            pid, handed, _, _ = socket.recv_fds(ours, 100, 2)
            with contextlib.ExitStack() as opened:
                plugs = [opened.enter_context(socket.socket(fileno=descriptor)) for descriptor in handed]
                for plug in plugs:
                    plug.settimeout(GENEROUS)
                yield run, int(pid), plugs
        finally:
            run.kill()


def passes(plugs: list[socket.socket], text: bytes) -> bool:
    """Whether a frame comes through."""
    sent = frame(mac(2), mac(1), text)
    plugs[0].sendall(len(sent).to_bytes(4, "big") + sent)
    heard = b""
    while sent not in heard and (more := plugs[1].recv(1 << 16)):
        heard += more
    return sent in heard


def test_a_network_goes_on_while_its_run_is_stopped() -> None:
    with in_another_process() as (run, _, plugs):
        assert passes(plugs, b"before")
        run.send_signal(signal.SIGSTOP)
        assert passes(plugs, b"meanwhile")
        plugs[1].close()
        run.send_signal(signal.SIGCONT)


def test_a_switch_is_gone_as_soon_as_its_run_has_been_killed() -> None:
    with in_another_process() as (run, pid, plugs):
        assert passes(plugs, b"before")
        run.kill()
        run.wait()
        as_promised(lambda: not Path(f"/proc/{pid}/cmdline").exists(), "the switch is gone")
        with contextlib.suppress(OSError):
            assert not plugs[1].recv(1)


def test_switches_of_different_networks_know_nothing_of_each_other(lab: Lab, lan: PrivateNetwork) -> None:
    other = lab.networks.make("lan")
    assert not other.subnet.overlaps(lan.subnet)
    assert not other.subnet6.overlaps(lan.subnet6)
    with plugged(lan, "one", "two") as plugs, plugged(other, "one", "two") as others:
        for plug in (*plugs.values(), *others.values()):
            plug.heard()
        plugs["one"].send(said := frame(b"\xff" * 6, plugs["one"].mac, b"hello"))
        assert plugs["two"].hear(1) == [said]
        others.settle()
        assert others["two"].heard() == []
    lab.networks.end(other)
