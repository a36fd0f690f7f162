"""Owns the overlays that outlive their machines: where each goes, and which there are."""

import itertools
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.errors import ConfigurationError
from pytest_readonly_vm.image.output_guard import OutputGuard
from pytest_readonly_vm.plugin.output_folder import folder_name

if TYPE_CHECKING:
    from pytest_readonly_vm.machine.vm import VirtualMachine


class KeptOverlays:
    """Those of one pytest process."""

    def __init__(self, config: pytest.Config, output_guard: OutputGuard) -> None:
        self._config = config
        self._output_guard = output_guard
        self._kept: list[dict[str, Any]] = []
        self._taken: dict[str, object] = {}

    def place(self, config: VmConfig, node: Any, label: str) -> Path | None:
        """Where the overlay of a node's machine is to go if it is kept, and no other's of that node; None if never.

        Asked when it is known what the base image consists of, which may be an overlay that was kept before.

        :raises ConfigurationError: it is a place of what this run reads.
        """
        if config.keep == "never":
            return None
        destination = self._free(config, node, label)
        if why := self._output_guard.why_not(destination):
            raise ConfigurationError(
                f"{config.origin('keep')}: keep: the overlay would go to {destination}, and {why}; nothing was "
                "written; copy or move that image, or choose another folder by --vm-output"
            )
        return destination

    def _free(self, config: VmConfig, node: Any, label: str) -> Path:
        """The first such name that no other machine has until the node is left; a test that is repeated has it again.

        Several threads of a test may ask at once.
        """
        folder = Path(self._config.invocation_params.dir) / config.output / folder_name(node.nodeid or "session")
        name, mine = folder_name(label) if label else "overlay", object()
        for number in itertools.count(1):
            path = folder / f"{name}{f'-{number}' if number > 1 else ''}.qcow2"
            if self._taken.setdefault(str(path), mine) is mine:
                node.addfinalizer(partial(self._taken.pop, str(path), None))
                return path
        raise AssertionError("unreachable")

    def note(self, vm: "VirtualMachine", path: Path) -> None:
        """The overlay of a machine that has ended is there."""
        self._kept.append({"path": str(path), "is_above_store": _is_above_store(vm)})

    def take(self) -> list[dict[str, Any]]:
        """Those that have come since the last call: path, and whether the base is in a store of images."""
        kept, self._kept = self._kept, []
        return kept


def _is_above_store(vm: "VirtualMachine") -> bool:
    from pytest_readonly_vm.sources.store import is_of_a_store

    base = vm.instance.spec.base
    return base is not None and any(isinstance(file.path, Path) and is_of_a_store(file.path) for file in base.chain)
