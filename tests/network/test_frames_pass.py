"""What is in a frame is the machines' own affair: tags, groups, protocols that nobody knows."""

import pytest

from tests.network.frames import frame, mac
from tests.network.plugs import Plugs

VLAN, SERVICE_VLAN = 0x8100, 0x88A8
INNER = b"\x08\0" + b"\x45" + bytes(45)


@pytest.mark.parametrize(
    ("to", "ethertype", "payload"),
    [
        (mac(2), VLAN, b"\0\5" + INNER),
        (mac(2), SERVICE_VLAN, b"\0\7\x81\0\0\5" + INNER),
        (b"\xff" * 6, VLAN, b"\0\5" + INNER),
        (b"\1\0\x5e\0\0\xfb", 0x0800, INNER[2:]),  # IPv4's groups
        (b"\x33\x33\0\0\0\1", 0x86DD, b"\x60" + bytes(47)),  # IPv6's
        (b"\1\x80\xc2\0\0\0", 0x0026, bytes(60)),  # spanning trees, of which this switch is none
        (mac(2), VLAN, b"\0\5" + b"\x08\0" + b"\x45" * 9000),
    ],
    ids=["tag", "two-tags", "tag-to-all", "group", "group6", "bridges", "jumbo-with-tag"],
)
def test_it_passes_as_it_is_to_whom_it_is_for(plugs: Plugs, to: bytes, ethertype: int, payload: bytes) -> None:
    one, two, three = plugs.values()
    for plug in plugs.values():
        plug.heard()  # what came before others were known
    sent = frame(to, one.mac, payload, ethertype=ethertype)
    one.send(sent)
    plugs.settle()
    assert two.heard() == [sent]
    assert three.heard() == ([] if to == two.mac else [sent])
