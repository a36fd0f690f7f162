"""Owns what an UEFI firmware says on the serial console when it boots nothing, and the error for who waits for a guest.

Otherwise that is a boot without an end, as the firmware waits for somebody at its keyboard. The words are those
of EDK II and shim.
"""

import asyncio
import re
from collections.abc import Callable, Coroutine
from typing import Any

from pytest_readonly_vm.errors import BootFailed
from pytest_readonly_vm.guest.booting_guest import NO_DEADLINE
from pytest_readonly_vm.host.loop import cancel
from pytest_readonly_vm.qemu.instance import Instance

_DEAD_END = re.compile(
    r"BdsDxe: No bootable option or device was found|Verification failed: \(0x1A\) Security Violation|Shell> "
)
_FAILED = re.compile(r'BdsDxe: failed to (?:load|start) \w+ "([^"\n]*)" from [^\n]*: ([A-Z][A-Za-z ]+)')
_REFUSED = ("Access Denied", "Security Violation")
_GRACE = 2.0
"""Seconds in which the guest can be ready nevertheless: who waits for the firmware's own shell has got it."""


async def unless_nothing_boots(instance: Instance, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Await something, on the loop, unless the firmware gives up; where it does not tell, for ever.

    :param work: begins it, which is not done where this is cancelled before it has begun.
    :raises BootFailed: it has.
    """
    if instance.spec.firmware.kind == "bios":
        await work()
        return
    waiting = asyncio.ensure_future(work())
    giving_up = asyncio.ensure_future(instance.console.seen(_DEAD_END, NO_DEADLINE))
    try:
        await asyncio.wait((waiting, giving_up), return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            await asyncio.wait((waiting,), timeout=_GRACE)
        if not waiting.done():
            raise instance.process.with_evidence(_error(instance, giving_up.result()[0]))
        await waiting
    finally:
        await cancel(waiting, giving_up)


def _error(instance: Instance, said: str) -> BootFailed:
    tried = {name: why.strip() for name, why in _FAILED.findall(instance.console.text)}
    tried = {name: why for name, why in tried.items() if "Shell" not in name}  # which is the firmware's own
    told = "; ".join(f"{name}: {why}" for name, why in tried.items()) or said
    firmware = instance.spec.firmware
    if firmware.kind == "uefi-secure" and ("Violation" in said or not set(_REFUSED).isdisjoint(tried.values())):
        return BootFailed(
            f"{instance.name}: Secure Boot has refused what the image boots ({told}), which nobody has signed whose "
            f"key the firmware has ({instance.config.origin('firmware')}: firmware={firmware.kind}); firmware=uefi "
            "boots it unsigned"
        )
    return BootFailed(
        f"{instance.name}: the firmware found nothing to boot ({told}); the image may be for a BIOS, or its loader is "
        f"not in the place where it is looked for on an unknown disk ({firmware.describe()})"
    )
