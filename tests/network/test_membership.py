"""Each machine of a network has a MAC and addresses of its own, whatever addresses a test has said."""

import asyncio
import threading
from typing import Any

import pytest

from pytest_readonly_vm import Lab
from pytest_readonly_vm.errors import NetworkError
from pytest_readonly_vm.network.services import Services
from tests.network.plugs import on_loop


def test_addresses_are_given_again_when_there_are_none_left(lab: Lab) -> None:
    network = lab.networks.make("small", subnet="192.168.7.0/28")
    room = [network.join(f"vm{number}", card=1) for number in range(5)]
    with pytest.raises(NetworkError, match=r"192\.168\.7\.0/28 has no address left"):
        network.join("more", card=1)
    network.leave(room[2])
    again = network.join("again", card=1)
    assert (again.address.ipv4, again.port) == (room[2].address.ipv4, 7)
    assert again.address.mac not in {member.address.mac for member in room}
    with pytest.raises(NetworkError, match=r"192\.168\.7\.12 is another machine's by now"):
        network.rejoin(room[2])
    lab.networks.end(network)


@pytest.mark.parametrize(
    ("options", "said", "automatic"),
    [
        ({}, "10.77.0.12", ["10.77.0.11", "10.77.0.13", "10.77.0.14"]),
        ({"subnet": "192.168.7.0/28"}, "192.168.7.5", [f"192.168.7.{end}" for end in (11, 12, 13, 14, 10)]),
        ({"gateway": "192.168.7.11", "subnet": "192.168.7.0/28"}, "192.168.7.5", ["192.168.7.12", "192.168.7.13"]),
    ],
)
def test_automatic_addresses_pass_over_those_that_are_said(
    lab: Lab, options: dict[str, Any], said: str, automatic: list[str]
) -> None:
    network = lab.networks.make("lan", first=0, **{"subnet": "10.77.0.0/24", **options})
    members = [network.join("said", card=1, address=said)]
    members += [network.join("vm", card=1) for _ in automatic]
    assert [str(member.address.ipv4) for member in members] == [said, *automatic]
    assert len({member.address.mac for member in members}) == len(members)
    assert len({member.address.ipv6 for member in members}) == len(members)
    lab.networks.end(network)


def test_the_address_of_the_networks_own_services_is_no_machines(lab: Lab) -> None:
    served, plain = lab.networks.make("served", dns=True), lab.networks.make("plain")
    with pytest.raises(NetworkError, match=rf"{served.subnet[1]} is that of the network's own services"):
        served.join("one", card=1, address=str(served.subnet[1]))
    assert plain.join("one", card=1, address=str(plain.subnet[1])).address.ipv4 == plain.subnet[1]
    for network in (served, plain):
        lab.networks.end(network)


def test_an_address_for_which_there_is_no_ipv6_address_is_refused(lab: Lab) -> None:
    big = lab.networks.make("big", subnet="10.0.0.0/8", subnet6="fd00::/112")
    with pytest.raises(NetworkError, match=r"10\.200\.0\.1: fd00::/112 has no address with the same end"):
        big.join("one", card=1, address="10.200.0.1")
    lab.networks.end(big)


def test_a_station_is_told_last_who_is_there_at_last(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when one thread is slow at telling."""
    served = lab.networks.make("served", dns=True)
    is_first, is_second = threading.Event(), threading.Event()
    facts, told = Services.facts, list[list[str]]()

    def slow(self: Services, *given: Any) -> dict[str, Any]:
        found = facts(self, *given)
        if not is_first.is_set():
            is_first.set()
            is_second.wait(0.2)  # which comes meanwhile if nothing keeps it from it
        told.append([host["name"] for host in found["hosts"]])
        is_second.set()
        return found

    monkeypatch.setattr(Services, "facts", slow)
    threads = [threading.Thread(target=served.join, args=(name,), kwargs={"card": 1}) for name in ("one", "two")]
    threads[0].start()
    is_first.wait()
    threads[1].start()
    for thread in threads:
        thread.join()
    assert told == [["one"], ["one", "two"]]
    lab.networks.end(served)


def test_that_a_station_could_not_be_told_is_in_the_history(lab: Lab) -> None:
    served = lab.networks.make("served", dns=True)

    async def refuse(do: str, **request: Any) -> None:
        raise NetworkError("cannot")

    kept, served._switch.ask = served._switch.ask, refuse  # type: ignore[method-assign, assignment]
    served.join("one", card=1)
    on_loop(served, lambda: asyncio.sleep(0))  # which comes after it
    served._switch.ask = kept  # type: ignore[method-assign]
    assert [entry.what for entry in served.history.entries()] == ["its services were not told who is on it: cannot"]
    lab.networks.end(served)
