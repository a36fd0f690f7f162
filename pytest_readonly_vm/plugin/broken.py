"""Owns what is broken for later tests: shared machines that came to their end, kinds that do not boot, or no layer.

The tests after that one fail at once, each with one line that names the first cause, instead of each with its own wait.
"""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.config.table import SCOPES
from pytest_readonly_vm.errors import ChannelError, GuestBroken, GuestDied, GuestLacks, UnitFailed, VmError, WaitTimeout
from pytest_readonly_vm.plugin.distribution.kinds import variant

if TYPE_CHECKING:
    from pytest_readonly_vm.machine.vm import VirtualMachine

_NOT_BOOTED = (GuestDied, ChannelError, WaitTimeout, GuestLacks, UnitFailed)
_TRIES = 2
"""How many tests may wait for the boot of a kind of machine, or for a layer, that fails; one may be an accident."""


@dataclass(frozen=True, slots=True)
class _BrokenMachine:
    """The end of a shared machine, or of the attempt to have one."""

    node: object
    """Whose it was."""
    scope: str
    variant: object
    """Of the tests that would share it."""
    first: str = field(compare=False)
    """Node id of the test that met it."""
    cause: str = field(compare=False)

    def concerns(self, item: pytest.Item, scope_wanted: str) -> bool:
        names = getattr(item, "fixturenames", ())
        wants = f"readonly_vm_{self.scope}" in names or ("readonly_vm" in names and scope_wanted == self.scope)
        return wants and self.node in item.listchain() and self.variant == variant(item) and self.first != item.nodeid


class BrokenMachines:
    """The machines, and kinds of them, that the tests of one run cannot use any more."""

    def __init__(self) -> None:
        self._shared: list[_BrokenMachine] = []
        self._failures: dict[VmConfig, list[str]] = {}
        """Of kinds of machines: without layers, the failed boots; with layers, the failures of the last of these."""

    def check(self, item: pytest.Item, scope: str) -> None:
        """Before a test; `scope` is that of `readonly_vm`, as far as it is known.

        :raises GuestBroken: the machine that it would share has come to its end.
        """
        for broken in self._shared:
            if broken.concerns(item, scope):
                raise GuestBroken(f"the {broken.scope}'s machine cannot be used since {broken.first}: {broken.cause}")

    def look(self, item: pytest.Item, shared: Iterable[tuple["VirtualMachine", object, str]]) -> None:
        """After a test: which of the machines that it may have shared, each with owner and scope, came to their end."""
        for vm, node, scope in shared:
            if scope in SCOPES and not vm.closed and vm.config.reset == "never" and (trouble := vm.trouble):
                self._add(item, node, scope, trouble)

    def _add(self, item: pytest.Item, node: object, scope: str, trouble: VmError) -> None:
        broken = _BrokenMachine(node, scope, variant(item), first=item.nodeid, cause=_headline(trouble))
        if broken not in self._shared:
            self._shared.append(broken)

    @contextlib.contextmanager
    def starting(self, config: VmConfig, item: pytest.Item | None, node: Any, label: str) -> Iterator[None]:
        """The start of a machine for a test, for itself or for a wider scope.

        :raises GuestBroken: two such machines have not come up before, or one of its layers has failed twice.
        """
        kinds = [replace(config, layers=config.layers[:count]) for count in range(len(config.layers) + 1)]
        for kind in kinds:
            failures = self._failures.get(kind, [])
            if len(failures) >= _TRIES:
                what = f"the layer {kind.layers[-1]} fails" if kind.layers else "such a machine does not boot"
                if kind.cluster is not None:
                    what = f"the cluster {kind.cluster} does not form"
                raise GuestBroken(f"{what}, so it is not tried again: {failures[0]}")
        before = self._count(kinds)
        try:
            yield
        except VmError as error:
            if item is not None:
                if isinstance(error, _NOT_BOOTED) and self._count(kinds) == before:
                    self._note(kinds[0], item, error)
                if node is not item and label in SCOPES:
                    self._add(item, node, label, error)
            raise
        for kind in kinds:
            self._failures.pop(kind, None)

    def note_layer(self, config: VmConfig, item: pytest.Item | None, error: BaseException) -> None:
        """A layer, the last of this configuration, could not be made for a test."""
        if item is not None and isinstance(error, Exception | pytest.fail.Exception):
            self._note(config, item, error)

    def _note(self, kind: VmConfig, item: pytest.Item, error: BaseException) -> None:
        self._failures.setdefault(kind, []).append(f"{item.nodeid}: {_headline(error)}")

    def _count(self, kinds: list[VmConfig]) -> int:
        return sum(len(self._failures.get(kind, ())) for kind in kinds)


def _headline(error: BaseException) -> str:
    line = str(error).partition("\n")[0]
    return line if isinstance(error, VmError) else f"{type(error).__name__}{f': {line}' if line else ''}"
