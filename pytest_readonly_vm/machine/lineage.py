"""Owns where a machine comes from and what can come of it: a fresh one of the same order, and copies of its present."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pytest_readonly_vm.errors import VmError
from pytest_readonly_vm.qemu.instance import Instance
from pytest_readonly_vm.qemu.launch import Order
from pytest_readonly_vm.start.clone import clone
from pytest_readonly_vm.start.strategies import Start
from pytest_readonly_vm.start.template import Template, Unfrozen, freeze_running

if TYPE_CHECKING:
    from pytest_readonly_vm.machine.vm import VirtualMachine


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """The origin of one machine."""

    order: Order
    start: Start
    adopt: "Callable[[Order, Instance], VirtualMachine]"
    """Makes the lab the keeper of one more machine."""
    record: Callable[[Order, Instance], None]
    """Hears of every start that is not one of a machine for the lab to keep."""

    def pristine(self) -> Instance:
        """Another instance of the same order, as a test gets it."""
        instance = self.start.start(self.order)
        self.record(self.order, instance)
        return instance

    def freeze(self, instance: Instance) -> Template:
        """The machine's present state; it runs on.

        :raises VmError: something of the machine does not allow that.
        """
        freezing = freeze_running(instance, qemu_img=self.order.hypervisor.qemu_img)
        try:
            return self.order.loop.run(freezing)
        except Unfrozen as unfrozen:
            raise VmError(f"{instance.name}: the machine's state cannot be saved: {unfrozen}") from None

    def fork(self, template: Template, name: str) -> "VirtualMachine":
        """Another machine that goes on from a state of this one."""
        order = replace(self.order, name=name)
        return self.adopt(order, clone(order, template))

    def copy(self, template: Template) -> Instance:
        """An instance that goes on from a state of this machine."""
        return clone(self.order, template)
