"""Owns the power button: it is pressed until the guest minds it.

A press is lost where nobody in the guest listens yet: QEMU keeps none for a guest that has not enabled the button, and
a Linux passes none on to a logind or acpid that opens its device later.
"""

import asyncio
import contextlib
import re

from pytest_readonly_vm.channels.console import Console
from pytest_readonly_vm.channels.qmp import Qmp
from pytest_readonly_vm.errors import VmError, WaitTimeout
from pytest_readonly_vm.host.process import Process

_FIRST_PAUSE = 2.0
_LONGEST_PAUSE = 16.0
_MONITOR_PATIENCE = 5.0

# Of systemd, sysvinit, OpenRC, BusyBox and the BSDs.
_SHUTTING_DOWN = re.compile(
    r"Stopp(?:ing|ed) |Unmount|[Pp]ower(?:ing)? (?:off|down)|going down|system (?:will|is) |SIGTERM|"
    r"Sw?itching to runlevel|Shutting down|shutdown"
)


async def power_down(qmp: Qmp, console: Console, process: Process, *, timeout: float) -> None:
    """Press it, again and ever less often until the guest reacts, and wait for the guest's end and QEMU's.

    :raises WaitTimeout: it runs on after `timeout` seconds.
    :raises VmError: QEMU does not take the command.
    """
    clock = asyncio.get_running_loop().time
    deadline, pause = clock() + timeout, _FIRST_PAUSE
    heard, position = qmp.heard, console.position
    await qmp.command("system_powerdown", timeout=_MONITOR_PATIENCE)
    while not await process.wait_ended(min(pause, max(deadline - clock(), 0.0))):
        if clock() >= deadline:
            error = WaitTimeout(f"{qmp.name}: the guest did not shut down within {timeout:g} s of its power button")
            error.add_note(f"Last console lines:\n{console.tail()}")
            raise error
        # A channel that is closed now is one that the guest's init has ended.
        events = (event for event in qmp.events if event.number >= heard and event.name == "VSERPORT_CHANGE")
        if any(not event.data.get("open") for event in events) or _SHUTTING_DOWN.search(console.since(position)):
            pause = timeout
        else:
            with contextlib.suppress(VmError):  # it may end in this moment
                await qmp.command("system_powerdown", timeout=_MONITOR_PATIENCE)
            pause = min(2 * pause, _LONGEST_PAUSE)
