"""What passes a network is captured whole, in a form that the field's tools read, with what faults did to it."""

import os
import subprocess
from pathlib import Path

import pytest
from scapy.layers.inet import UDP
from scapy.utils import PcapNgReader

from pytest_readonly_vm import Lab, VmConfig
from pytest_readonly_vm.errors import NetworkError
from pytest_readonly_vm.evidence.networks import collect_network, name_for, whereabouts
from pytest_readonly_vm.machine.private_network import PrivateNetwork
from pytest_readonly_vm.network.talk import table
from tests.network.frames import frame
from tests.network.plugs import Plugs, ask

PORTS = (40000, 40001)
"""Of which tshark knows nothing."""


def tshark(path: Path, *fields: str) -> list[list[str]]:
    """These fields of each frame of a file."""
    asked = [word for field in fields for word in ("-e", field)]
    command = ["tshark", "-n", "-r", str(path), "-T", "fields", *asked]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return [line.split("\t") for line in done.stdout.splitlines()]


def test_a_capture_is_read_by_tshark_and_scapy(lan: PrivateNetwork, plugs: Plugs, tmp_path: Path) -> None:
    path = tmp_path / "lan.pcapng"
    odd = frame(plugs["two"].mac, plugs["one"].mac, b"\x00" * 5, ethertype=0x88B5)
    plugs["one"].heard()  # what came before all were there
    with lan.capture(path) as capture:
        assert not path.exists(), "half a file"
        plugs["one"].send(plugs.udp("one", "two", b"to two"), odd)
        plugs.settle()
        with lan.drop(to="three"), lan.drop(match=lambda one: one.payload == b"gone", nth=1):
            plugs["one"].send(plugs.udp("one", "three", b"to three"), plugs.udp("one", "two", b"gone"))
            plugs.settle()
            plugs["two"].send(plugs.udp("two", "one", b"back" * 400, ports=(7, 40000)))
            assert [len(back) for back in plugs["one"].hear(1)] == [42 + 1600]
    assert capture.frames == 5

    fields = ("frame.interface_name", "udp.dstport", "frame.len", "frame.comment")
    lost = [
        "drop to three: lost on the way to three",
        "drop, frame 1 for which <lambda> is true: lost on the way to two",
    ]
    assert tshark(path, *fields) == [
        ["one", "7", "48", ""],
        ["one", "", "19", ""],
        ["one", "7", "50", lost[0]],
        ["one", "7", "46", lost[1]],
        ["two", "40000", "1642", ""],
    ]
    with PcapNgReader(str(path)) as reader:
        packets = list(reader)
    assert [bytes(packet[UDP].payload) for packet in packets if UDP in packet] == [
        b"to two",
        b"to three",
        b"gone",
        b"back" * 400,
    ]
    assert bytes(packets[1]) == odd
    assert [packet.sniffed_on for packet in packets] == ["one"] * 4 + ["two"]
    times = [float(packet.time) for packet in packets]
    assert times == sorted(times)


def test_the_last_frames_are_remembered_up_to_a_limit(lan: PrivateNetwork, plugs: Plugs, tmp_path: Path) -> None:
    count = 4000
    for first in range(0, count, 500):
        plugs["one"].send(
            *(plugs.udp("one", "two", f"{number:<1400}".encode(), ports=PORTS) for number in range(first, first + 500))
        )
        plugs["two"].heard()
    plugs.settle()
    path = tmp_path / "remembered.pcapng"
    with path.open("w+b") as file:
        frames = lan.write_remembered(file)
    assert 3 << 20 < path.stat().st_size < 4 << 20
    assert frames < count
    payloads = tshark(path, "data.data")
    assert [int(bytes.fromhex(one)) for (one,) in payloads] == list(range(count - frames, count))


def test_a_capture_writes_no_file_that_machines_read_and_none_that_it_cannot(
    lab: Lab, lan: PrivateNetwork, tmp_path: Path
) -> None:
    image = tmp_path / "base.img"
    image.write_bytes(b"x" * 512)
    lab.output_guard.protect(VmConfig().replace(image=image))
    for path, words in (
        (image, "it is the base image"),
        (tmp_path / "none" / "x", "No such file"),
        (tmp_path, "Is a dir"),
    ):
        with pytest.raises(NetworkError, match=f"{path} cannot be written: .*{words}"):
            lan.capture(path)
    assert image.read_bytes() == b"x" * 512
    assert not list(lan.end_test(failed=False))


def test_the_frames_of_two_networks_of_one_name_are_found(lab: Lab, lan: PrivateNetwork, tmp_path: Path) -> None:
    other = lab.networks.make("lan")
    names: dict[PrivateNetwork, str] = {}
    for network in (lan, other):
        names[network] = name_for(network, names.values())
    places = {network: network.join("one", card=1) for network in names}
    told = whereabouts(places, names)["networks"].split(", ")
    saved = [collect_network(network, tmp_path, names[network], lab.output_guard) for network in names]
    assert [sentence.split()[-1] for sentence in told if "frames" in sentence] == [path.name for _, path in saved]
    assert [path.name for _, path in saved] == ["network-lan.pcapng", "network-lan-2.pcapng"]
    lab.networks.end(other)


def test_a_full_disk_ends_the_capture_and_not_the_network(lan: PrivateNetwork, plugs: Plugs) -> None:
    full = os.open("/dev/full", os.O_RDWR)
    try:
        ask(lan, "capture", full, number=99)
    finally:
        os.close(full)
    plugs["one"].send(plugs.udp("one", "two"))
    plugs.settle()
    with pytest.raises(NetworkError, match="No space left on device"):
        ask(lan, "end_capture", number=99)
    assert len(lan.talk()) > 0


def test_who_talked_to_whom_is_told_of_the_present_test(lan: PrivateNetwork, plugs: Plugs) -> None:
    lan.begin_test()
    assert lan.talk() == ()
    plugs["one"].send(*[plugs.tcp("one", "two", b"x" * 1000, ports=(40000, 2379))] * 3, plugs.udp("one", "two"))
    plugs["two"].send(plugs.tcp("two", "one", ports=(2379, 40000)))
    plugs.settle()
    first, second = lan.talk()
    assert (first.source, first.to, first.frames, first.bytes) == ("one", "two", 4, 3 * 1054 + 42)
    assert first.protocols == {"tcp/2379": 3, "udp/7": 1}
    assert (second.source, second.protocols) == ("two", {"tcp/2379": 1})
    assert table(lan.talk()) == (
        "from  to   frames    bytes  protocols\n"
        "one   two       4  3.1 KiB  tcp/2379 3, udp/7 1\n"
        "two   one       1     54 B  tcp/2379 1"
    )


def test_a_guest_that_calls_itself_a_thousand_does_not_outgrow_an_answer(lan: PrivateNetwork, plugs: Plugs) -> None:
    plugs["one"].send(*(plugs.udp("one", "two", ports=(number, number)) for number in range(1, 9000)))
    plugs.settle()
    [talk] = (one for one in lan.talk() if one.source == "one" and one.to == "two")
    assert talk.frames == 8999
    assert len(talk.protocols) == 8
