"""The network's services, as guests and firmware ask for them by themselves."""

import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_readonly_vm import Lab, VirtualMachine, VmConfig
from pytest_readonly_vm.errors import WaitTimeout
from pytest_readonly_vm.machine.private_network import PrivateNetwork
from tests.accelerator import ACCEL
from tests.guests import bootsector
from tests.guests.tiny_linux import tiny_linux
from tests.network import frames
from tests.network.plugs import Plug
from tests.qemu.waiting import GENEROUS
from tests.templates import templates

LEASED = """\
#!/bin/sh
[ "$1" = bound ] || exit 0
ifconfig $interface $ip netmask $subnet mtu $mtu
echo "search $domain" >/etc/resolv.conf
echo "nameserver $dns" >>/etc/resolv.conf
"""


@pytest.fixture(scope="module")
def tiny() -> VmConfig:
    guest = tiny_linux()
    files = {"image": guest.disk, "kernel": guest.kernel, "initrd": guest.initrd, "append": guest.append}
    booted = {"accel": ACCEL, "boot_timeout": GENEROUS, "cache": templates(), "network": "none", "memory": "128M"}
    return VmConfig().replace(**files, **booted)


@pytest.fixture(scope="module")
def served(lab: Lab) -> Iterator[PrivateNetwork]:
    made = lab.networks.make("lan", mtu=9000, dhcp=True, dns=True, boot_file="menu.ipxe", tftp="server")
    yield made
    lab.networks.end(made)


@pytest.fixture(scope="module")
def pair(lab: Lab, tiny: VmConfig, served: PrivateNetwork) -> tuple[VirtualMachine, VirtualMachine]:
    one, two = (lab.start(tiny, name=name, networks=[served]) for name in ("one", "two"))
    return one, two


def ask_for_an_address(vm: VirtualMachine, lan: PrivateNetwork) -> None:
    vm.write_text("/tmp/leased", LEASED)
    vm.run(f"chmod +x /tmp/leased; udhcpc -f -q -n -i {vm.interface(lan)} -s /tmp/leased")


def test_guests_that_ask_are_addressed_and_find_each_other(
    pair: tuple[VirtualMachine, VirtualMachine], served: PrivateNetwork
) -> None:
    one, two = pair
    with pytest.raises(WaitTimeout, match=f"two: nobody answers as {two.address(served)}"):
        two.wait_for_address(served, timeout=0.2)
    for vm in pair:
        ask_for_an_address(vm, served)
        assert vm.wait_for_address(served) == vm.address(served)
        assert vm.run("cat /etc/hosts", check=False).exit_code != 0
    found = one.run("nslookup two").stdout
    assert two.address(served) in found
    assert two.address(served, version=6) in found
    one.run("ping -c 1 two && ping -c 1 ns.lan.test")
    one.run(f"ping -c 1 -s 8900 {two.address(served)}")  # whole, as the cards take 9000 bytes


def test_ipv6_addresses_are_of_the_prefix_and_the_card(
    pair: tuple[VirtualMachine, VirtualMachine], served: PrivateNetwork
) -> None:
    one, two = pair
    one.wait_until_succeeds(f"ping -6 -c 1 {two.address(served, version=6)}")  # once each has seen that nobody has it
    for vm in pair:
        assert f"{vm.address(served, version=6)}/64" in vm.run("ip -6 addr").stdout


class TftpServer(Plug):
    """A card that answers whoever asks whether it is there, and whoever asks it for a file with a small one."""

    def __init__(self, lan: PrivateNetwork, name: str, content: bytes) -> None:
        super().__init__(lan, name, 200)
        self.mac = bytes.fromhex(self.member.address.mac.replace(":", ""))
        self.ip = str(self.member.address.ipv4)
        self.asked: list[bytes] = []
        self._content = content
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> "TftpServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.lan.leave(self.member)
        self.socket.shutdown(2)
        self._thread.join()
        self.socket.close()

    def _serve(self) -> None:
        ours = self.member.address.ipv4.packed
        self.socket.settimeout(None)
        while frame := self._next():
            if frame[12:14] == b"\x08\x06" and (frame[20:22], frame[38:42]) == (b"\0\1", ours):
                answer = frame[14:20] + b"\0\2" + self.mac + ours + frame[22:32]
                self.send(frames.frame(frame[6:12], self.mac, answer, ethertype=0x0806))
            elif frame[12:14] == b"\x08\0" and frame[36:38] == b"\0\x45" and frame[42:44] == b"\0\1":
                self.asked.append(frame[44:].partition(b"\0")[0])
                ports = (69, struct.unpack_from(">H", frame, 34)[0])
                addresses = (self.ip, ".".join(map(str, frame[26:30])))
                data = b"\0\3\0\1" + self._content
                self.send(frames.udp(frame[6:12], self.mac, data, ports=ports, addresses=addresses))

    def _next(self) -> bytes:
        try:
            return self.hear(1)[0]
        except (AssertionError, OSError):
            return b""


def test_a_machine_with_a_blank_disk_boots_over_the_network(
    lab: Lab, pair: tuple[VirtualMachine, VirtualMachine], served: PrivateNetwork, tmp_path: Path
) -> None:
    one, _ = pair
    ask_for_an_address(one, served)
    loader = bootsector.hello("booted")[:510].rstrip(b"\0")
    one.run("mkdir -p /tmp/www")
    one.write_bytes("/tmp/www/loader", loader)
    one.run("httpd -h /tmp/www")
    blank = tmp_path / "blank.img"
    with blank.open("wb") as file:
        file.truncate(1 << 20)
    config = VmConfig().replace(
        image=blank,
        start="cold",
        accel=ACCEL,
        network="none",
        memory="16M",
        channel="none",
        ready="console:booted",
        boot_timeout=GENEROUS,
    )
    menu = f"#!ipxe\nchain http://{one.address(served)}/loader\n"
    with TftpServer(served, "server", menu.encode()) as server:
        booted = lab.start(config, name="blank", networks=[served])
        assert server.asked == [b"menu.ipxe"]
        booted.close()
