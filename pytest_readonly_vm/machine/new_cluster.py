"""Owns the forming of a cluster: what the user's function makes machines and networks with."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
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
        self.networks: dict[str, PrivateNetwork] = {}
        self._owner = owner
        self._networks = networks
        self._start = start
        self._lock = threading.Lock()
        self._asked: dict[str, _Asked] = {}

    @property
    def machines(self) -> dict[str, VirtualMachine]:
        """Those that are ready, by their names, in the order in which they were asked for."""
        return {name: asked.vm for name, asked in self._asked.items() if asked.vm is not None}

    def settings(self, name: str) -> Mapping[str, Any]:
        """Those of a machine that the function has said."""
        return self._asked[name].settings

    def network(self, name: str = "lan", **options: Any) -> PrivateNetwork:
        """A network between the cluster's machines, the same for the same name; options as ``vm_private_network``."""
        with self._lock:
            if name not in self.networks:
                first = FIRST_NUMBER + len(self.networks)
                self.networks[name] = self._networks.make(name, owner=self._owner, first=first, **options)
            return self.networks[name]

    def machine(
        self, name: str, *, networks: Sequence[PrivateNetwork | str] = (), **settings: object
    ) -> VirtualMachine:
        """One more machine of the cluster, ready: that of the test's settings with these changed.

        Several threads may ask for machines at once.

        :param name: what the others know it by, and the test: ``readonly_vm_cluster["n0"]``.
        :param networks: those of `network` that it is on, or their names.
        :param settings: of paths, those that are relative are so to the folder of the function's file.
        :raises ConfigurationError: the name is taken, or a setting is wrong.
        """
        origin = f"cluster {self.config.cluster}: machine {name!r}"
        with self._lock:
            if name in self._asked:
                raise ConfigurationError(f"{origin}: there is one of that name already")
            asked = self._asked[name] = _Asked()
        try:
            assert self.config.cluster is not None
            folder = self.config.cluster.folder
            given = {key: Given(value, origin, folder) for key, value in settings.items()}
            config = replace(self.config, cluster=None).with_settings(given)
            asked.settings = told(settings, config)
            on = [self.network(network) if isinstance(network, str) else network for network in networks]
            asked.vm = self._start(config, name=f"{self._owner} ({name})", networks=on, host=name)
        except BaseException:
            del self._asked[name]
            raise
        return asked.vm


@dataclass(slots=True)
class _Asked:
    """A machine that the function has asked for."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    vm: VirtualMachine | None = None
    """None until it is ready."""


def told(settings: Mapping[str, object], config: VmConfig) -> dict[str, Any]:
    """Of settings of a machine those that it still has a use for once it is frozen, as JSON can say them.

    Functions are none of them: layers have been made by then, and it was ready.

    :param config: what they came to, with paths that are the same from everywhere.
    """
    found: dict[str, Any] = {}
    for name, said in settings.items():
        came_to = getattr(config, name)
        value = came_to if isinstance(came_to, Path) else said
        values = list(value) if isinstance(value, list | tuple) else [value]
        if all(isinstance(one, str | int | float | Path | None) for one in values):
            texts = [str(one) if isinstance(one, Path) else one for one in values]
            found[name] = texts if isinstance(value, list | tuple) else texts[0]
    return found
