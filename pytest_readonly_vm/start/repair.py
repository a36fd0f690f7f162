"""Owns the repair of a guest that goes on from a frozen moment, before a test sees it: its channel goes on, and over
that runs a script. Its clock stands at that moment, and the kernel's random numbers would be the same in all copies.

What cannot be repaired is what programs in the guest have drawn already: keys, names, seeds of generators of their own.
"""

import asyncio
import os
import time
import uuid
import warnings
from collections.abc import Mapping
from typing import Any

from pytest_readonly_vm.errors import ChannelError, GuestWarning
from pytest_readonly_vm.host.loop import LoopThread
from pytest_readonly_vm.qemu.instance import Instance
from pytest_readonly_vm.start.repair_program import CREDITED, ENTROPY, repair_program

_RESUME_PATIENCE = 10.0
_REPAIR_PATIENCE = 60.0

_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/ .,:;@_+=")

_PLACES = "/dev/shm /run /tmp /var/tmp /root"  # memory first; in a hardened guest all but the last are mounted noexec
_NAME = ".readonly-vm-repair"

PREPARE = f"""\
for f in {_PLACES}; do
    f=$f/{_NAME}
    echo '#!/bin/sh' >"$f" && chmod 700 "$f" && "$f" && break
    [ -e "$f" ] && rm -f "$f"
done 2>/dev/null
:
""".encode()
"""Shell text for root to run before a guest is frozen: then its clones need start one program instead of two.

It leaves an executable file in a place for such. The repair overwrites it, which keeps its mode, and removes it.
"""

_BY_PROGRAM = """\
for f in {places}; do [ -x "$f/{name}" ] && prepared=$f; done
for f in $prepared {places}; do
    f=$f/{name}
    printf '{program}' >"$f" && {{ [ -x "$f" ] || chmod 700 "$f"; }} && "$f" </dev/urandom && repaired=1 && break
    [ -e "$f" ] && rm -f "$f"
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


def resume(instance: Instance, conversation: tuple[str, Mapping[str, Any]] | None, *, loop: LoopThread) -> None:
    """Go on with the guest's conversation, then set right what is stale in the guest; see `repair_script`.

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
    script = "prepared= repaired= failed=0\n"
    if program := repair_program(arch, now, entropy):
        script += _BY_PROGRAM.format(places=_PLACES, name=_NAME, program=_printable(program))
    add, reseed = _ioctls(arch)
    script += _OTHERWISE.format(
        seconds=round(now),
        entropy=_printable(entropy),
        add=add,
        reseed=reseed,
        bits=CREDITED,
        bytes=len(entropy),
        hex=entropy.hex(),
    )
    if machine_id == "new":
        script += _MACHINE_ID.format(id=uuid.uuid4().hex)
    return f"{script}exit $failed\n".encode()


def _ioctls(arch: str) -> tuple[int, int]:
    """RNDADDENTROPY and RNDRESEEDCRNG: a few architectures number the directions of an ioctl differently."""
    if arch.startswith(("alpha", "mips", "ppc", "sparc")):
        return 0x80085203, 0x20005207
    return 0x40085203, 0x5207


def _printable(data: bytes) -> str:
    """The format for which ``printf`` prints these bytes."""
    return "".join(chr(byte) if byte in _PLAIN else f"\\{byte:03o}" for byte in data)
