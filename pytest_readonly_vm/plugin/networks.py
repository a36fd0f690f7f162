"""Owns what a test run does with private networks: whose they are, their end, what reports say of them."""

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pytest

from pytest_readonly_vm.errors import SwitchDied
from pytest_readonly_vm.host.cleanup import Cleanup
from pytest_readonly_vm.host.stopwatch import Part, Stopwatch
from pytest_readonly_vm.plugin.evidence import EvidenceKeeper
from pytest_readonly_vm.plugin.given import given_settings
from pytest_readonly_vm.plugin.machine_record import network_record
from pytest_readonly_vm.plugin.owners import machines_of
from pytest_readonly_vm.printable import line

if TYPE_CHECKING:
    from pytest_readonly_vm.machine.networks import Networks
    from pytest_readonly_vm.machine.private_network import PrivateNetwork
    from pytest_readonly_vm.machine.vm import VirtualMachine

_has_failed = pytest.StashKey[bool]()


class NetworkKeeper:
    """Ends with each test what it has begun on networks, and tells of it. Without networks it does nothing."""

    def __init__(
        self,
        config: pytest.Config,
        evidence: EvidenceKeeper,
        stopwatch: Stopwatch,
        on_end: Callable[[dict[str, Any]], object],
    ) -> None:
        """`on_end` gets of each network that ends what the page of the run shows, if there is to be one."""
        self.of_lab: Networks | None = None
        """All that there are, once there is a lab."""
        self._config = config
        self._evidence = evidence
        self._stopwatch = stopwatch
        self._on_end = on_end
        self._properties: list[tuple[str, str]] = []
        self._sections: list[tuple[str, str]] = []

    @contextlib.contextmanager
    def opened(
        self, networks: "Networks", name: str, node: Any, options: Mapping[str, Any]
    ) -> "Iterator[PrivateNetwork]":
        """A private network of a node's of the collection tree, that ends when this is left."""
        with self._stopwatch.part(Part.STARTING):
            network = networks.make(name, owner=node.name or "the session", **options)
        try:
            with self.kept([network], node):
                yield network
        finally:
            with self._stopwatch.part(Part.ENDING):
                networks.end(network)

    @contextlib.contextmanager
    def kept(self, networks: "Iterable[PrivateNetwork]", node: Any) -> Iterator[None]:
        """Networks are a node's until this is left, and they are about to end."""
        try:
            yield
        finally:
            if "report" in given_settings(self._config):
                for network in networks:
                    self._on_end(network_record(network, test=node.nodeid))

    def _open(self) -> "tuple[PrivateNetwork, ...]":
        return self.of_lab.open if self.of_lab is not None else ()

    # As a plugin.

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, object, object]:
        """Before anything of a test is torn down, its networks are healthy again, and faults without use are told."""
        with Cleanup() as cleanup:
            for error in self._end_test(item) if self._open() else ():
                with cleanup.step():
                    raise error
            with cleanup.step():
                yield
        return None

    def _end_test(self, item: pytest.Item) -> list[BaseException]:
        failed = item.stash.get(_has_failed, False)
        errors: list[BaseException] = []
        concerned = self._concerned(machines_of(item))
        for network in self._open():
            done = network.done
            errors += network.end_test(failed=failed)
            self._properties += [("vm_network", line(f"{network.name}: {one}")) for one in done]
        if errors:
            self._sections = _sections(concerned)
            first = line(str(errors[0]).partition("\n")[0])
            self._evidence.save_first(item, machines_of(item), f"teardown: {first}")
        for network in self._open():
            network.begin_test()
        return errors

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Add what is known of the networks of a test that has failed, and of what was done to them, of any."""
        report = yield
        if call.when == "setup":
            item.stash[_has_failed] = False
        if call.excinfo is not None:
            item.stash[_has_failed] = True
        if report.failed and (self._sections or self._open()):
            report.sections += self._sections or _sections(self._concerned(machines_of(item)))
            if call.excinfo is not None and isinstance(call.excinfo.value, SwitchDied):
                for network in self._open():
                    network.note_told()
        if report.when == "teardown":
            report.user_properties += self._properties
            if self._properties and not self._sections:
                report.sections.append(("Networks", "\n".join(words for _, words in self._properties)))
            self._properties, self._sections = [], []
        return report

    def _concerned(self, machines: "list[VirtualMachine]") -> "list[PrivateNetwork]":
        """The networks of which a test's report tells: those of its machines, and those to which it did something."""
        found = {network for vm in machines for network in vm.places}
        return [network for network in self._open() if network in found or network.has_news]


def _sections(networks: "Iterable[PrivateNetwork]") -> list[tuple[str, str]]:
    """Of each network what was done to it during the test, and who talked to whom."""
    from pytest_readonly_vm.evidence.networks import describe  # which only failures pay for

    return [(f"Network {network.name}", describe(network)) for network in networks]
