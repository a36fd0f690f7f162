"""Owns the places that machines have on private networks: taken before they come, given back, exchanged for others."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

from pytest_readonly_vm.machine.member import Member
from pytest_readonly_vm.machine.private_network import PrivateNetwork
from pytest_readonly_vm.qemu.card import Cabling

Places = Mapping[PrivateNetwork, Member]
"""A machine's places, one on each network."""
Told = Mapping[PrivateNetwork, str | None]
"""The names of others that its guest knows, on each network; see `PrivateNetwork.names`."""


def take_places(networks: Iterable[PrivateNetwork], host: str) -> Places:
    """Places for a machine that is to come, which whoever calls gives back if it does not.

    :raises NetworkError: there is none left on one of them.
    """
    places: dict[PrivateNetwork, Member] = {}
    try:
        for network in networks:
            if network not in places:
                places[network] = network.join(host, card=len(places) + 1)
    except BaseException:
        give_back(places)
        raise
    return places


def give_back(places: Places) -> None:
    for network, member in places.items():
        network.leave(member)


def cablings(places: Places) -> tuple[Cabling, ...]:
    """The cards of a machine that is to come."""
    return tuple(network.cabling(member) for network, member in places.items())


@contextmanager
def exchanging(exchanges: Iterable[tuple[Places, Places]]) -> Iterator[None]:
    """Have machines give up places, each its own, for those of another time, all or none: if this fails, as before.

    :raises NetworkError: somebody else has a name or an address of those by now.
    """
    with ExitStack() as back:
        pairs = [
            (network, before.get(network), after.get(network))
            for before, after in exchanges
            for network in {**before, **after}
        ]
        for network, old, new in pairs:
            if old is not None and old is not new:
                network.leave(old)
                back.callback(network.rejoin, old)
        for network, old, new in pairs:
            if new is not None and old is not new:
                network.rejoin(new)
                back.callback(network.leave, new)
        yield
        back.pop_all()
