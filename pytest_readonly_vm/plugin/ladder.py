"""Owns what the rungs of the ladder do: the values of settings, the configuration, the machine. See `fixtures`."""

import contextlib
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from pytest_readonly_vm.config.image_url import ImageUrl
from pytest_readonly_vm.config.oci_reference import SCHEME, OciReference
from pytest_readonly_vm.config.setting import Given
from pytest_readonly_vm.config.settings import SETTINGS, VmConfig
from pytest_readonly_vm.config.values import names
from pytest_readonly_vm.errors import ConfigurationError
from pytest_readonly_vm.host.once import OncePerKey
from pytest_readonly_vm.plugin import markers
from pytest_readonly_vm.plugin.given import configured, given_images, given_settings
from pytest_readonly_vm.plugin.run import Run
from pytest_readonly_vm.sources.image_list import listed

if TYPE_CHECKING:
    from pytest_readonly_vm.machine.cluster import Cluster
    from pytest_readonly_vm.machine.private_network import PrivateNetwork
    from pytest_readonly_vm.machine.vm import VirtualMachine


_networks = pytest.StashKey["NetworkFactory"]()

_SUFFIX = re.compile(r"(?<=.)\.[A-Za-z][A-Za-z0-9]*$")
"""Of a file's name; what begins with a digit is of a version."""


class VmFactory(Protocol):
    """What the fixture ``readonly_vm_factory`` gives."""

    def __call__(
        self,
        *,
        name: str | None = None,
        networks: "Sequence[PrivateNetwork | str] | PrivateNetwork | str | None" = None,
        **settings: object,
    ) -> "VirtualMachine":
        """Start one more machine: `vm_config` with these settings changed. It ends with the test at the latest.

        :param name: shown in messages and process lists, beside the test's own name; what others on its networks know
            it by.
        :param networks: the private networks that it is on, of ``vm_private_network``, or their names; see the setting.
        """


class NetworkFactory(Protocol):
    """What the fixtures ``vm_private_network``, ``vm_private_network_module``, … give."""

    def __call__(
        self,
        name: str = "lan",
        *,
        subnet: str | None = None,
        subnet6: str | None = None,
        mtu: int | None = None,
        configure: bool = True,
        dhcp: bool = False,
        dns: bool = False,
        gateway: str | None = None,
        boot_file: str | None = None,
        tftp: str | None = None,
    ) -> "PrivateNetwork":
        """A private network between machines, the same for the same name. It ends with what it is for.

        :param subnet: its IPv4 subnet, as ``192.168.7.0/24``; by default one that nothing else uses.
        :param subnet6: its IPv6 subnet.
        :param mtu: the largest packet in bytes, that the cards have; 9000 for jumbo frames. By default 1500.
        :param configure: whether guests' cards are given their addresses, and the others' names, by root's hand.
        :param dhcp: whether guests are to ask for their addresses, which the network then tells them.
        :param dns: whether the network answers for the names of its machines, at its first address.
        :param gateway: the name of the machine by which all others reach what is on none of their networks, or an
            address; the machine's is the network's second then, unless it has another.
        :param boot_file: what firmware that boots over the network is told to fetch; needs ``dhcp``.
        :param tftp: the name of the machine that has it, or an address.
        :raises NetworkError: the subnets, the MTU or the services cannot be, or are others than those of the network
            that is there.
        """


def setting(request: pytest.FixtureRequest, name: str) -> object:
    """The value of ``vm_NAME``."""
    given = given_settings(request.config).get(name)
    return given.value if given else getattr(VmConfig(), name)


def image(request: pytest.FixtureRequest) -> object:
    """The value of ``vm_image``."""
    if hasattr(request, "param"):
        return request.param.value
    images = given_images(request.config)
    return images[0].value if images else None


def image_parameters(config: pytest.Config) -> dict[str, Any]:
    """What makes tests run once for each image, if there are several: arguments of `pytest.fixture`."""
    images = given_images(config)
    return {"params": images, "ids": _ids([image.value for image in images])} if len(images) > 1 else {}


def _ids(images: Sequence[object]) -> list[str]:
    """A short id for each image: as few of its last parts as tell it from the others, if possible without suffix.

    Those that differ in nothing that may be shown, as URLs do by a signature, have numbers.
    """
    short, long = ([_parts(image, with_suffix=with_suffix) for image in images] for with_suffix in (False, True))
    most = max(map(len, long))
    for number in range(1, most + 1):
        for parts in (short, long):
            ids = ["-".join(one[-number:]) for one in parts]
            if len(set(ids)) == len(ids):
                return ids
    return [f"{one[-1]}-{number}" for number, one in enumerate(short, 1)]


def _parts(image: object, *, with_suffix: bool) -> list[str]:
    """What tells where an image is, from the widest to the narrowest; a name of a list is one part."""
    place = None if isinstance(image, Path) or getattr(image, "label", None) else getattr(image, "place", None)
    if isinstance(place, OciReference):
        return str(replace(place, digest=None) if place.tag else place).removeprefix(SCHEME).split("/")
    if isinstance(place, ImageUrl):
        parts = [part for part in str(place).removesuffix("?…").split("/")[2:] if part]
    elif isinstance(image, Path):
        parts = str(image).split("/")
    else:
        return [str(image)]
    return parts if with_suffix or len(parts) == 1 else [*parts[:-1], _SUFFIX.sub("", parts[-1])]


def config(request: pytest.FixtureRequest, scope: str, values: dict[str, object]) -> VmConfig:
    """The value of ``vm_config``, or of a wider scope's, from those of all the settings' fixtures."""
    node = _package_of(request) if scope == "package" else request.node
    with _usage_errors():
        settings = {name: values[f"vm_{name}"] for name in SETTINGS}
        return listed(markers.applied(configured(request.config, settings), node))


def networks(request: pytest.FixtureRequest, scope: str) -> Iterator[NetworkFactory]:
    """As the fixtures ``vm_private_network``, …"""
    if scope != "package":
        with contextlib.ExitStack() as opened:
            yield _network_factory(Run.of(request.config), request.node, opened)
        return
    node = _package_of(request)  # for which the networks are made, as its machine is, by whichever of its modules
    if _networks not in node.stash:
        whole = contextlib.ExitStack()
        node.addfinalizer(whole.close)
        whole.callback(node.stash.__delitem__, _networks)
        node.stash[_networks] = _network_factory(Run.of(request.config), node, whole)
    yield node.stash[_networks]


def _network_factory(run: Run, node: pytest.Item | pytest.Collector, opened: contextlib.ExitStack) -> NetworkFactory:
    """What makes the networks of a node, which end when `opened` is closed."""
    made: OncePerKey[str, tuple[dict[str, Any], PrivateNetwork]] = OncePerKey()

    def enter(name: str, options: dict[str, Any]) -> "PrivateNetwork":
        return opened.enter_context(run.networks.opened(run.lab.networks, name, node, options))

    def network(name: str = "lan", **options: Any) -> "PrivateNetwork":
        try:
            [name] = names(name)
        except ValueError as error:
            raise pytest.UsageError(f"vm_private_network: {error}") from None
        known, found = made.get(name, lambda: (options, enter(name, options)))
        if options and options != known:
            raise pytest.UsageError(f"vm_private_network({name!r}) is there already, with other options: {known}")
        return found

    return network


def factory(request: pytest.FixtureRequest, vm_config: VmConfig, network: NetworkFactory) -> Iterator[VmFactory]:
    """As the fixture ``readonly_vm_factory``."""
    run, vm_config = Run.of(request.config), replace(vm_config, cluster=None)
    numbers = itertools.count(1)  # of which no two threads get the same
    with contextlib.ExitStack() as machines:

        def boot(
            *,
            name: str | None = None,
            networks: "Sequence[PrivateNetwork | str] | PrivateNetwork | str | None" = None,
            **settings: object,
        ) -> "VirtualMachine":
            number = next(numbers)
            label = name or (str(number) if number > 1 else "")
            with _usage_errors():
                origin = f"readonly_vm_factory in {request.node.nodeid}"
                given = {key: Given(value, origin, request.path.parent) for key, value in settings.items()}
                wanted = listed(vm_config.with_settings(given))
                if networks is None:
                    networks = wanted.networks
                elif isinstance(networks, str) or not isinstance(networks, Sequence):
                    networks = (networks,)
                on = [network(one) if isinstance(one, str) else one for one in networks]
                host = name or f"vm{label}"
                return machines.enter_context(run.machine(wanted, request.node, label, on, host=host))

        yield boot


def cluster(request: pytest.FixtureRequest, vm_config: VmConfig) -> "Iterator[Cluster]":
    """As the fixture ``readonly_vm_cluster``."""
    if vm_config.cluster is None:
        raise pytest.UsageError(
            "no cluster: give the function that forms it with @pytest.mark.vm(cluster=…), or a vm_cluster fixture"
        )
    run = Run.of(request.config)
    run.lookahead.ran(request.node, vm_config)
    with _usage_errors(), run.cluster(vm_config, request.node) as found:
        yield found


def machine(request: pytest.FixtureRequest, vm_config: VmConfig, factory: VmFactory) -> Any:
    """The value of ``readonly_vm``."""
    vm_config = replace(vm_config, cluster=None)
    if vm_config.scope == "function":
        Run.of(request.config).lookahead.ran(request.node, vm_config)
        return factory()
    Run.of(request.config).check_broken(request.node, vm_config.scope)
    shared = request.getfixturevalue(f"readonly_vm_{vm_config.scope}")
    if shared.config != vm_config:
        name = next(name for name in SETTINGS if getattr(shared.config, name) != getattr(vm_config, name))
        raise pytest.UsageError(
            f"{vm_config.origin(name)}: {name} cannot differ for one test, which shares the machine of its "
            f"{vm_config.scope} (scope, from {vm_config.origin('scope')})"
        )
    return shared


def shared_machine(
    request: pytest.FixtureRequest, scope: str, config: VmConfig, network: NetworkFactory
) -> "Iterator[VirtualMachine]":
    """As the fixture of the machine that all tests of a wider scope share."""
    run, config = Run.of(request.config), replace(config, cluster=None)
    with _usage_errors():
        on = [network(name) for name in config.networks]
        if scope == "package":
            yield run.shared_machine(config, _package_of(request), scope, on)
        else:
            with run.machine(config, request.node, scope, on) as vm:
                yield vm


def _package_of(request: pytest.FixtureRequest) -> pytest.Collector:
    """The innermost package that has the module of a request, or the session for a module outside of any."""
    return request.node.getparent(pytest.Package) or request.session


@contextlib.contextmanager
def _usage_errors() -> Iterator[None]:
    """Wrong settings are the user's to mend, so pytest is to say so."""
    try:
        yield
    except ConfigurationError as error:
        raise pytest.UsageError(str(error)) from None
