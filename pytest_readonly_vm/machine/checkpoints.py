"""Owns what a test holds of a machine's state: a checkpoint to go back to, forks that go on from it."""

import time
from dataclasses import dataclass, field
from typing import Protocol, Self, TypeVar

from pytest_readonly_vm.start.template import Template


class _Machine(Protocol):
    """What checkpoints and forks need of a `VirtualMachine`."""

    closed: bool

    def forget(self, checkpoint: "Checkpoint") -> None: ...
    def restore(self, checkpoint: "Checkpoint | None" = None) -> None: ...
    def close(self) -> None: ...


T = TypeVar("T", bound=_Machine)


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A state of one machine, to which `VirtualMachine.restore` goes back. A context that does so when it is left."""

    vm: _Machine
    template: Template
    taken: float = field(default_factory=time.time)
    """On the host's clock, since the epoch."""

    def close(self) -> None:
        """Forget it, and give its memory back. A second call does nothing."""
        self.vm.forget(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self.vm.closed:
            self.vm.restore(self)
        self.close()


class Forks(tuple[T, ...]):
    """The machines of one fork. A context that closes them all when it is left."""

    __slots__ = ()

    def close(self) -> None:
        for vm in self:
            vm.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
