"""Owns the choice of how a machine comes to be: the strategies by name, and what `auto` makes of them."""

from typing import Protocol

from pytest_readonly_vm.errors import ConfigurationError, StartFailed
from pytest_readonly_vm.qemu.instance import Instance
from pytest_readonly_vm.qemu.spec import MachineSpec
from pytest_readonly_vm.start.maker import Maker
from pytest_readonly_vm.start.migration import Unfrozen
from pytest_readonly_vm.start.templates import Refused, Templates, without_name


class Strategy(Protocol):
    """One way in which machines come to be."""

    def start(self, spec: MachineSpec) -> Instance:
        """A machine whose guest is ready and pristine.

        :raises VmError: there is none; nothing is left of it.
        """


class Cold:
    """Every machine boots, and gets its layers, by itself."""

    def __init__(self, maker: Maker) -> None:
        self._maker = maker

    def start(self, spec: MachineSpec) -> Instance:
        return self._maker.with_layers(self._maker.cold(spec))


class Clone:
    """The first machine boots and is frozen; every machine goes on from there in a process of its own."""

    def __init__(self, maker: Maker, templates: Templates) -> None:
        self._maker = maker
        self._templates = templates

    def start(self, spec: MachineSpec) -> Instance:
        try:
            return _copy(spec, self._maker, self._templates, even_if_quick=True)
        except Unfrozen as unfrozen:
            if isinstance(unfrozen, Refused):
                self._maker.discard(unfrozen.instance)
            origin = spec.config.origin("start")
            raise ConfigurationError(f"{origin}: start=clone is not possible: {unfrozen}") from None


class Auto:
    """Clones, where a guest can be frozen and takes long enough to boot; else a cold start, and why."""

    def __init__(self, maker: Maker, templates: Templates) -> None:
        self._maker = maker
        self._templates = templates

    def start(self, spec: MachineSpec) -> Instance:
        made = 0
        try:
            return _copy(spec, self._maker, self._templates, even_if_quick=False)
        except Refused as refused:
            instance, made = refused.instance, refused.layers
            if spec.config.snapshot != "overlay":
                without_name(instance)
            reason = str(refused)
        except Unfrozen as unfrozen:
            instance = self._maker.cold(spec)
            reason = str(unfrozen)
        except StartFailed as failure:
            reason = str(failure)
            self._templates.refuse(spec, reason)
            instance = self._maker.cold(spec)
        instance.reason = reason
        return self._maker.with_layers(instance, made=made)


def _copy(spec: MachineSpec, maker: Maker, templates: Templates, *, even_if_quick: bool) -> Instance:
    """A clone. When QEMU does not accept what an earlier run has kept, it is made anew."""
    try:
        return maker.clone(spec, templates.get(spec, even_if_quick=even_if_quick))
    except StartFailed:
        if not templates.distrust(spec):
            raise
    return maker.clone(spec, templates.get(spec, even_if_quick=even_if_quick))


def strategies(maker: Maker, templates: Templates) -> dict[str, Strategy]:
    """All there are, by what the setting ``start`` calls them."""
    return {"cold": Cold(maker), "clone": Clone(maker, templates), "auto": Auto(maker, templates)}
