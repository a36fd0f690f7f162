"""Owns what a test holds of a machine's other moments: a checkpoint to go back to, the forks that go on from one."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from pytest_readonly_vm.machine.start.template import Template

if TYPE_CHECKING:
    from pytest_readonly_vm.machine.vm import VirtualMachine


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A moment of one machine, to which `VirtualMachine.restore` goes back. A context that does so when it is left."""

    vm: "VirtualMachine"
    template: Template

    def close(self) -> None:
        """Forget it, and give its memory back. A second call does nothing."""
        self.vm.forget(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self.vm.closed:
            self.vm.restore(self)
        self.close()


class Forks(tuple["VirtualMachine", ...]):
    """The machines of one fork. A context that closes them all when it is left."""

    __slots__ = ()

    def close(self) -> None:
        for vm in self:
            vm.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(slots=True)
class Panic:
    """A panic that a test expects."""

    text: str = ""
    """What the kernel said, once it has panicked; empty if it said nothing on the serial console."""
