"""Owns the repair of a guest that goes on from a frozen moment, before a test sees it: its channel goes on, and over
that a program that waits in the guest is told what to do. The guest's clock stands at that moment, and the kernel's
random numbers would be the same in all copies.

What cannot be repaired is what programs in the guest have drawn already: keys, names, seeds of generators of their own.
"""

import asyncio
import contextlib
import os
import time
import uuid
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from pytest_readonly_vm.channels.channel import Channel
from pytest_readonly_vm.channels.helper import TEXT, as_format
from pytest_readonly_vm.errors import ChannelError, ChannelLost, GuestWarning
from pytest_readonly_vm.host.loop import LoopThread
from pytest_readonly_vm.qemu.instance import Instance
from pytest_readonly_vm.start.repair_program import (
    CREDITED,
    ENTROPY,
    IDLE,
    VAIN_MESSAGE,
    repair_message,
    repair_program,
)

_PREPARE_PATIENCE = 10.0
_RESUME_PATIENCE = 10.0
_REPAIR_PATIENCE = 60.0
_ALIGNED, _ALIGNING = 0.003, 0.5
"""Seconds by which the clocks of copies that go on together may differ, and for how long that is tried for each."""
_ENOUGH, _AS_GOOD = 3, 1.3
"""After so many tries one will do that took not much longer than the best, for a guest that is never so quick."""

_PLACES = "/dev/shm /run /tmp /var/tmp /root"  # memory first; in a hardened guest all but the last are mounted noexec

_BY_PROGRAM = """\
for f in {places}; do
    f=$f/.readonly-vm-repair
    printf '{program}' >"$f" && chmod 700 "$f" &&
        printf '{message}%{texts}s' x | "$f" 3</dev/urandom >/dev/null && repaired=1
    [ -e "$f" ] && rm -f "$f"
    [ "$repaired" ] && break
done 2>/dev/null
"""

# What is written to the device is mixed in, but drawn from only after the kernel's next reseeding.
_OTHERWISE = """\
[ "$repaired" ] || {{
    why=$(date -u -s @{seconds} 2>&1 >/dev/null) || {{ echo "the clock could not be set: $why" >&2; failed=1; }}
    {{ printf '{entropy}' >/dev/urandom; }} 2>/dev/null
    if command -v perl >/dev/null; then
        why=$(perl -e '
            $pool = pack("iiH*", {bits}, {bytes}, "{hex}");
            ioctl(STDIN, {add}, $pool) && ioctl(STDIN, {reseed}, 0) or die "$!\\n"
        ' </dev/urandom 2>&1)
    elif command -v python3 >/dev/null; then
        why=$(python3 -ISc 'import fcntl, struct
try:
    fcntl.ioctl(0, {add}, struct.pack("ii", {bits}, {bytes}) + bytes.fromhex("{hex}"))
    fcntl.ioctl(0, {reseed})
except OSError as error:
    exit(error.strerror)' </dev/urandom 2>&1)
    else
        why="there is neither perl nor python3 to do it"
        false
    fi || {{ echo "the random numbers could not be reseeded and may repeat for a minute: $why" >&2; failed=1; }}
}}
"""

# /etc/machine-id is empty or missing in a guest that does without. Where it cannot be written, it stays.
_MACHINE_ID = """\
{{
    [ -s /etc/machine-id ] && echo {id} >/etc/machine-id
    [ -f /var/lib/dbus/machine-id ] && [ ! -L /var/lib/dbus/machine-id ] && echo {id} >/var/lib/dbus/machine-id
}} 2>/dev/null
"""


async def prepare(instance: Instance) -> None:
    """Make a guest that is to be copied ready for the repair, if a channel is in use and it is possible; on the loop.

    From then on the program waits in it, so that a copy need not start one.
    """
    channel, program = instance.channels.found, repair_program(instance.spec.hypervisor.qemu.arch)
    if channel is not None and program is not None:
        try:
            async with asyncio.timeout(_PREPARE_PATIENCE):
                await channel.keep_helper(program, idle=IDLE, trial=VAIN_MESSAGE)
        except (TimeoutError, ChannelError):
            instance.channels.lose()  # in the midst of who knows what


def resume(instance: Instance, conversation: tuple[str, Mapping[str, Any]] | None, *, loop: LoopThread) -> None:
    """Go on with the guest's conversation, then set right what is stale in the guest; see `repair_script`.

    Where there was none, as none was looked for or by SSH, that is done over the first channel that answers, before
    anybody uses it. What cannot be repaired is a `GuestWarning`.

    :raises GuestDied: QEMU ended.
    """
    if conversation is None:
        instance.channels.before_use = partial(_repair_late, instance)
    else:
        _warn(instance, loop.run(_resumed(instance, *conversation)))


def _warn(instance: Instance, complaint: str) -> None:
    if complaint:
        warnings.warn(f"{instance.name}: a copy of a guest, not repaired: {complaint}", GuestWarning, stacklevel=3)


async def _repair_late(instance: Instance, channel: Channel) -> None:
    """
    :raises GuestDied, ChannelLost: it is to be done when a channel has answered again.
    """
    complaint = f"it was not done in {_REPAIR_PATIENCE:g} s"
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_REPAIR_PATIENCE):
                complaint = await _repaired(instance, channel)
    except ChannelLost:
        raise
    except ChannelError as error:
        complaint = str(error)
    instance.channels.before_use = None
    _warn(instance, complaint)


async def _resumed(instance: Instance, name: str, parted: Mapping[str, Any]) -> str:
    """What is left to complain of."""
    try:
        async with asyncio.timeout(_RESUME_PATIENCE):
            await instance.channels.resume(name, parted)
            return await _repaired(instance, await instance.channels.channel())
    except (TimeoutError, ChannelError):
        instance.channels.lose()
    try:
        async with asyncio.timeout(_REPAIR_PATIENCE):
            return await _repaired(instance, await instance.channels.channel())
    except (TimeoutError, ChannelError) as error:
        return str(error) or f"its channel did not answer in {_REPAIR_PATIENCE:g} s"


async def align_clocks(instances: Sequence[Instance]) -> None:
    """Set the clocks of copies that are to agree once more, one after another, now that none is busy; on the loop.

    A clock is late by as long as its guest takes to set it, which is not longer than its answer takes.
    """
    for instance in instances:
        with contextlib.suppress(ChannelError, TimeoutError):  # of which whoever uses it next hears
            async with asyncio.timeout(_REPAIR_PATIENCE):
                await _align_clock(instance)


async def _align_clock(instance: Instance) -> None:
    clock = asyncio.get_running_loop().time
    channel, deadline, took = instance.channels.found, clock() + _ALIGNING, list[float]()
    while channel is not None and clock() < deadline:
        asked = clock()
        if not await channel.ask_helper(repair_message(time.time(), os.urandom(ENTROPY))):
            break
        took.append(clock() - asked)
        if took[-1] < _ALIGNED or (len(took) > _ENOUGH and took[-1] < _AS_GOOD * min(took)):
            break  # else it has been held up


async def _repaired(instance: Instance, channel: Channel) -> str:
    errors = bytearray()
    arch, machine_id = instance.spec.hypervisor.qemu.arch, instance.config.machine_id
    if await channel.ask_helper(repair_message(time.time(), os.urandom(ENTROPY))):
        script = machine_id_script(machine_id)
    else:
        script = repair_script(arch=arch, now=time.time(), machine_id=machine_id)
    status = await channel.execute(script, input=b"", stdout=bytes, stderr=errors.extend) if script else 0
    return errors.decode(errors="replace").strip() if status else ""


def repair_script(*, arch: str, now: float, machine_id: str = "keep", entropy: bytes | None = None) -> bytes:
    """POSIX shell text, ASCII, that root runs in a Linux guest just after it was resumed.

    It sets the clock, and makes the kernel's random numbers differ from those of any other clone. Its exit status is 0
    if both were done; otherwise it is 1, and a line on stderr for each says why it was not.

    :param arch: the guest's processor in QEMU's words. There is a fast way for x86_64, i386, aarch64 and riscv64; for
        others, a few programs of the guest.
    :param now: the time to be set, seconds of the Unix epoch; the later the script is made, the righter the clock.
    :param machine_id: ``keep``, or ``new`` for another one if the guest has one. Services that run have read it.
    :param entropy: 64 random bytes; by default the host's.
    """
    entropy = os.urandom(ENTROPY) if entropy is None else entropy
    script = "repaired= failed=0\n"
    if program := repair_program(arch):
        message = as_format(repair_message(now, entropy))
        script += _BY_PROGRAM.format(places=_PLACES, program=as_format(program), message=message, texts=2 * TEXT)
    add, reseed = _ioctls(arch)
    script += _OTHERWISE.format(
        seconds=round(now),
        entropy=as_format(entropy),
        add=add,
        reseed=reseed,
        bits=CREDITED,
        bytes=len(entropy),
        hex=entropy.hex(),
    )
    return script.encode() + machine_id_script(machine_id) + b"exit $failed\n"


def machine_id_script(machine_id: str) -> bytes:
    """Its part about ``machine_id``, which does without the rest; nothing if that is to be kept."""
    return _MACHINE_ID.format(id=uuid.uuid4().hex).encode() if machine_id == "new" else b""


def _ioctls(arch: str) -> tuple[int, int]:
    """RNDADDENTROPY and RNDRESEEDCRNG: a few architectures number the directions of an ioctl differently."""
    if arch.startswith(("alpha", "mips", "ppc", "sparc")):
        return 0x80085203, 0x20005207
    return 0x40085203, 0x5207
