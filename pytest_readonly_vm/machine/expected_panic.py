"""Owns the wait for a panic that a test expects."""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from pytest_readonly_vm.errors import ChannelLost, GuestPanicked, WaitTimeout
from pytest_readonly_vm.host.loop import LoopThread
from pytest_readonly_vm.qemu.instance import Instance


@dataclass(slots=True)
class Panic:
    """A panic that a test expects."""

    text: str = ""
    """What the kernel said, once it has panicked; empty if it said nothing on the serial console."""


@contextlib.contextmanager
def expecting_panic(instance: Instance, loop: LoopThread, timeout: float) -> Iterator[Panic]:
    """As `VirtualMachine.expect_panic`."""
    panic = Panic()
    with contextlib.suppress(GuestPanicked, ChannelLost):
        yield panic
    try:
        with instance.qmp.history.noting("wait", "panic"):
            loop.run(instance.qmp.liveness.race(asyncio.sleep(timeout)))
    except GuestPanicked as panicked:
        panic.text = panicked.panic
    else:
        error = WaitTimeout(f"{instance.name}: the guest did not panic within {timeout:g} s")
        error.add_note(f"Last console lines:\n{instance.console.tail()}")
        raise error
