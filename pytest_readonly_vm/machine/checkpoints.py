"""Owns what a test holds of a machine's moments: a checkpoint to go back to, forks that go on, a panic to come."""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from pytest_readonly_vm.errors import ChannelLost, GuestPanicked, WaitTimeout
from pytest_readonly_vm.start.template import Template

if TYPE_CHECKING:
    from pytest_readonly_vm.machine.vm import VirtualMachine


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A moment of one machine, to which `VirtualMachine.restore` goes back. A context that does so when it is left."""

    vm: "VirtualMachine"
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


@contextlib.contextmanager
def expecting_panic(vm: "VirtualMachine", timeout: float) -> Iterator[Panic]:
    """As `VirtualMachine.expect_panic`."""
    panic = Panic()
    liveness = vm._liveness
    with contextlib.suppress(GuestPanicked, ChannelLost):
        yield panic
    try:
        with vm.history.noting("wait", "panic"):
            vm._loop.run(liveness.race(asyncio.sleep(timeout)))
    except GuestPanicked as panicked:
        panic.text = panicked.panic
    else:
        error = WaitTimeout(f"{vm.name}: the guest did not panic within {timeout:g} s")
        error.add_note(f"Last console lines:\n{vm.console.tail()}")
        raise error
