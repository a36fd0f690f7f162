"""Owns the choice of how a machine comes to be: the strategies by name, and what `auto` makes of them."""

from typing import Protocol

from pytest_readonly_vm.errors import ConfigurationError, StartFailed
from pytest_readonly_vm.qemu.instance import Instance
from pytest_readonly_vm.qemu.launch import Order
from pytest_readonly_vm.start.clone import clone
from pytest_readonly_vm.start.cold import cold_start, discard, with_layers
from pytest_readonly_vm.start.template import Unfrozen
from pytest_readonly_vm.start.templates import Refused, Templates, without_name


class Start(Protocol):
    """One way in which machines come to be."""

    def start(self, order: Order) -> Instance:
        """A machine whose guest is ready and pristine.

        :raises VmError: there is none; nothing is left of it.
        """


class Cold:
    """Every machine boots, and gets its layers, by itself."""

    def start(self, order: Order) -> Instance:
        return with_layers(order, cold_start(order))


class Clone:
    """The first machine boots and is frozen; every machine goes on from there in a process of its own."""

    def __init__(self, templates: Templates) -> None:
        self._templates = templates

    def start(self, order: Order) -> Instance:
        try:
            return _copy(order, self._templates, even_if_quick=True)
        except Unfrozen as unfrozen:
            if isinstance(unfrozen, Refused):
                discard(order.loop, unfrozen.instance)
            origin = order.config.origin("start")
            raise ConfigurationError(f"{origin}: start=clone is not possible: {unfrozen}") from None


class Auto:
    """Clones, where a guest can be frozen and takes long enough to boot; else a cold start, and why."""

    def __init__(self, templates: Templates) -> None:
        self._templates = templates

    def start(self, order: Order) -> Instance:
        made = 0
        try:
            return _copy(order, self._templates, even_if_quick=False)
        except Refused as refused:
            instance, made = refused.instance, refused.layers
            if order.config.snapshot != "overlay":
                without_name(instance)
            reason = str(refused)
        except Unfrozen as unfrozen:
            instance = cold_start(order)
            reason = str(unfrozen)
        except StartFailed as failure:
            reason = str(failure)
            self._templates.refuse(order, reason)
            instance = cold_start(order)
        instance.reason = reason
        return with_layers(order, instance, made=made)


def _copy(order: Order, templates: Templates, *, even_if_quick: bool) -> Instance:
    """A clone. When QEMU does not accept what an earlier run has kept, it is made anew."""
    try:
        return clone(order, templates.get(order, even_if_quick=even_if_quick))
    except StartFailed:
        if not templates.distrust(order):
            raise
    return clone(order, templates.get(order, even_if_quick=even_if_quick))
