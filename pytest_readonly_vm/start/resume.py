"""Owns what is done to a guest that goes on from a frozen moment before a test sees it: its channel, its repair."""

import asyncio
import time
import warnings
from collections.abc import Mapping
from typing import Any

from pytest_readonly_vm.errors import ChannelError, GuestWarning
from pytest_readonly_vm.host.loop import LoopThread
from pytest_readonly_vm.qemu.instance import Instance
from pytest_readonly_vm.start.repair import repair_script

_RESUME_PATIENCE = 10.0
_REPAIR_PATIENCE = 60.0


def resume(instance: Instance, conversation: tuple[str, Mapping[str, Any]] | None, *, loop: LoopThread) -> None:
    """Go on with the guest's conversation, then set right what is stale in the guest; see `repair`.

    A guest in which no channel was in use cannot be repaired. What cannot be repaired in another is a `GuestWarning`.

    :raises GuestDied: QEMU ended.
    """
    complaint = loop.run(_resumed(instance, conversation, instance.spec.hypervisor.qemu.arch))
    if complaint:
        warnings.warn(f"{instance.name}: a copy of a guest, not repaired: {complaint}", GuestWarning, stacklevel=2)


async def _resumed(instance: Instance, conversation: tuple[str, Mapping[str, Any]] | None, arch: str) -> str:
    """What is left to complain of."""
    if conversation is None:
        return ""
    try:
        async with asyncio.timeout(_RESUME_PATIENCE):
            await instance.channels.resume(*conversation)
            return await _repaired(instance, arch)
    except (TimeoutError, ChannelError):
        instance.channels.lose()
    try:
        async with asyncio.timeout(_REPAIR_PATIENCE):
            return await _repaired(instance, arch)
    except (TimeoutError, ChannelError) as error:
        return str(error) or f"its channel did not answer in {_REPAIR_PATIENCE:g} s"


async def _repaired(instance: Instance, arch: str) -> str:
    errors = bytearray()
    channel = await instance.channels.channel()
    script = repair_script(arch=arch, now=time.time(), machine_id=instance.config.machine_id)
    status = await channel.execute(script, input=b"", stdout=bytes, stderr=errors.extend)
    return errors.decode(errors="replace").strip() if status else ""
