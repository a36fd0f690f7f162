"""Owns the forming of a cluster: what the user's function makes machines and networks with."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from pytest_readonly_vm.config.setting import Given
from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.errors import ConfigurationError
from pytest_readonly_vm.machine.networks import Networks
from pytest_readonly_vm.machine.private_network import PrivateNetwork
from pytest_readonly_vm.machine.vm import VirtualMachine

FIRST_NUMBER = 256
"""Of a cluster's networks: their addresses are other ones than those of a test's own."""


class StartMachine(Protocol):
    """Starts a machine of a cluster."""

    def __call__(
        self, config: VmConfig, *, name: str, networks: Sequence[PrivateNetwork], host: str
    ) -> VirtualMachine: ...


class NewCluster:
    """A cluster that is being formed: what a function below ``@cluster`` gets."""

    def __init__(self, config: VmConfig, owner: str, networks: Networks, start: StartMachine) -> None:
        self.config = config
        """What machines are started with where the function says nothing else."""
        self.machines: dict[str, VirtualMachine] = {}
        self.settings: dict[str, dict[str, Any]] = {}
        """Those of each machine that the function has said."""
        self.networks: dict[str, PrivateNetwork] = {}
        self._owner = owner
        self._networks = networks
        self._start = start

    def network(self, name: str = "lan", **options: Any) -> PrivateNetwork:
        """A network between the cluster's machines, the same for the same name; options as ``vm_private_network``."""
        if name not in self.networks:
            first = FIRST_NUMBER + len(self.networks)
            self.networks[name] = self._networks.make(name, owner=self._owner, first=first, **options)
        return self.networks[name]

    def machine(
        self, name: str, *, networks: Sequence[PrivateNetwork | str] = (), **settings: object
    ) -> VirtualMachine:
        """One more machine of the cluster, ready: that of the test's settings with these changed.

        :param name: what the others know it by, and the test: ``readonly_vm_cluster["n0"]``.
        :param networks: those of `network` that it is on, or their names.
        :raises ConfigurationError: the name is taken, or a setting is wrong.
        """
        origin = f"cluster {self.config.cluster}: machine {name!r}"
        if name in self.machines:
            raise ConfigurationError(f"{origin}: there is one of that name already")
        given = {key: Given(value, origin, Path.cwd()) for key, value in settings.items()}
        config = replace(self.config, cluster=None).with_settings(given)
        on = [self.network(network) if isinstance(network, str) else network for network in networks]
        self.machines[name] = self._start(config, name=f"{self._owner} ({name})", networks=on, host=name)
        self.settings[name] = told(settings)
        return self.machines[name]


def told(settings: Mapping[str, object]) -> dict[str, Any]:
    """Of settings of a machine those that it still has a use for once it is frozen, as JSON can say them.

    Functions are none of them: layers have been made by then, and it was ready.
    """
    found: dict[str, Any] = {}
    for name, value in settings.items():
        values = list(value) if isinstance(value, list | tuple) else [value]
        if all(isinstance(one, str | int | float | Path | None) for one in values):
            texts = [str(one) if isinstance(one, Path) else one for one in values]
            found[name] = texts if isinstance(value, list | tuple) else texts[0]
    return found
