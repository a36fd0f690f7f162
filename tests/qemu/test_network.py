"""Ports of the guest can be reached from the host, only from it, and only for as long as wanted."""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pytest_readonly_vm import GuestDied, Lab, VirtualMachine, VmConfig, VmError
from tests.accelerator import ACCEL
from tests.guests.tiny_linux import PROMPT, tiny_linux
from tests.ports import port_to_come
from tests.qemu.waiting import GENEROUS
from tests.templates import templates

ECHO = 7
PATIENCE = 20.0


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


@pytest.fixture(scope="module")
def config() -> VmConfig:
    guest = tiny_linux()
    files = {"image": guest.disk, "kernel": guest.kernel, "initrd": guest.initrd, "append": guest.append}
    return VmConfig().replace(**files, memory="128M", accel=ACCEL, boot_timeout=GENEROUS, cache=templates())


@pytest.fixture(scope="module", params=["cold", "clone"])
def machine(lab: Lab, config: VmConfig, request: pytest.FixtureRequest) -> VirtualMachine:
    """A guest that echoes what it gets on a TCP port."""
    machine = lab.start(config.replace(start=request.param), name="guest")
    machine.console.expect(PROMPT)
    machine.console.send(f"nc -ll -p {ECHO} -e cat &\n")
    machine.console.send(f"until netstat -lnt | grep -q ':{ECHO} '; do sleep 0.1; done; echo list''ens\n")
    machine.console.expect("^listens")
    return machine


def listeners(pid: int) -> set[str]:
    """The addresses on which a process listens or receives, as /proc has them: ``0100007F:1A2B``."""
    sockets = {link.readlink().name for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()}
    rows = [row.split() for kind in ("tcp", "tcp6", "udp", "udp6") for row in _rows(Path(f"/proc/{pid}/net/{kind}"))]
    unconnected = {"0A", "07"}  # TCP_LISTEN, and TCP_CLOSE, which is how UDP looks
    return {row[1] for row in rows if f"socket:[{row[9]}]" in sockets and row[3] in unconnected}


def _rows(table: Path) -> list[str]:
    return table.read_text().splitlines()[1:]


def test_a_port_of_the_guest_answers_until_it_is_closed(machine: VirtualMachine) -> None:
    address = machine.forward(ECHO)
    with socket.create_connection(address, timeout=PATIENCE) as connection:
        connection.sendall(b"hello")
        assert connection.recv(5) == b"hello"
        machine.unforward(address)
        connection.sendall(b"still")
        assert connection.recv(5) == b"still"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=PATIENCE)


def test_as_a_context_it_is_closed_at_the_end(machine: VirtualMachine) -> None:
    with machine.forward(ECHO) as address, socket.create_connection(address, timeout=PATIENCE) as connection:
        connection.sendall(b"hello")
        assert connection.recv(5) == b"hello"
    with machine.forward(ECHO, udp=True) as closed_before:
        machine.unforward(closed_before, udp=True)
    assert listeners(machine.pid) == set()


def test_the_end_of_a_context_hides_no_end_of_the_guest(lab: Lab, config: VmConfig) -> None:
    machine = lab.start(config, name="guest")
    with machine.forward(ECHO):
        machine.kill()
    with pytest.raises(GuestDied, match="SIGKILL"), machine.forward(ECHO):
        pass


def test_a_udp_port_takes_datagrams(machine: VirtualMachine) -> None:
    # Nothing in this guest serves by UDP; but its kernel counts what came for nobody.
    machine.console.send("until awk '/^Udp: [0-9]/ { exit !$3 }' /proc/net/snmp; do sleep 0.1; done; echo arr''ived\n")
    address = machine.forward(ECHO, udp=True)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(b"hello", address)
    machine.console.expect("^arrived")
    machine.unforward(address, udp=True)


def test_nothing_listens_unless_asked_and_then_on_loopback_only(machine: VirtualMachine) -> None:
    assert listeners(machine.pid) == set()
    tcp, udp = machine.forward(ECHO), machine.forward(ECHO, udp=True)
    assert listeners(machine.pid) == {f"0100007F:{tcp.port:04X}", f"0100007F:{udp.port:04X}"}
    machine.unforward(tcp)
    machine.unforward(udp, udp=True)
    assert listeners(machine.pid) == set()


def test_threads_that_forward_the_same_port_each_get_their_own(machine: VirtualMachine) -> None:
    with ThreadPoolExecutor(8) as threads:
        addresses = list(threads.map(machine.forward, [ECHO] * 8))
    assert len(set(addresses)) == 8
    for address in addresses:
        machine.unforward(address)


def test_a_chosen_port_is_taken_once(machine: VirtualMachine) -> None:
    port = port_to_come()
    refusal = f"guest port {ECHO} cannot be forwarded to 127.0.0.1:{port}: "
    with socket.create_server(("127.0.0.1", port)), pytest.raises(VmError, match=refusal):
        machine.forward(ECHO, host_port=port)
    address = machine.forward(ECHO, host_port=port)
    assert address == ("127.0.0.1", port)
    machine.unforward(address)


@pytest.mark.parametrize("port", [-1, 0, 65536])
def test_what_is_no_port_is_a_sentence(machine: VirtualMachine, port: int) -> None:
    with pytest.raises(VmError, match=f"^guest: guest port {port} cannot be forwarded to 127.0.0.1: Invalid"):
        machine.forward(port)


def test_what_is_not_open_cannot_be_closed(machine: VirtualMachine) -> None:
    address = machine.forward(ECHO)
    with pytest.raises(VmError, match=f"127.0.0.1:{address.port} is no forward of this machine"):
        machine.unforward(address, udp=True)
    machine.unforward(address)
    with pytest.raises(VmError, match="is no forward of this machine"):
        machine.unforward(address)


def test_a_machine_without_a_network_says_so(lab: Lab, config: VmConfig) -> None:
    machine = lab.start(config.replace(network="none", ready="none", start="cold"), name="guest")
    with pytest.raises(VmError, match=r"^guest: the machine has no network whose ports could be forwarded"):
        machine.forward(ECHO)
