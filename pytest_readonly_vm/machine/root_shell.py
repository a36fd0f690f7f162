"""Owns a root shell for a person: on a terminal that is plugged into the running machine, with a socket on the host.

Commands of tests go another way, see `channels`: what a person needs is job control, Ctrl-C and line editing, so a
terminal. The guest needs the driver virtio_console and a POSIX ``sh``; its init has no part in it.
"""

import asyncio
import os
import re
import shlex
import time

from pytest_readonly_vm.errors import ChannelError, QmpError, VmError
from pytest_readonly_vm.guest.commands import Command
from pytest_readonly_vm.qemu.instance import Instance

_DEVICE = "person"
"""QEMU's name for the terminal and for its socket."""

_NAME = "readonly-vm.person"
"""The guest's name for it."""

_PATIENCE_WITH_THE_CHANNEL = 4.0
_PATIENCE_WITH_THE_END = 2.0
_PATIENCE_WITH_QEMU = 2.0
_NOT_FORGOTTEN = 9
_TERMINAL = re.compile(r"[\w.+-]+")

# Brackets, as what looks for it is a process with a command line, too.
_IS_SERVED = f"grep -q {_NAME.replace('.', '[.]')} /proc/[0-9]*/cmdline 2>/dev/null"

_IS_PLUGGED = f"grep -qx {_NAME} /sys/class/virtio-ports/*/name 2>/dev/null"

# A guest takes its time to notice that a terminal is gone, and Linux then gives its number to the next one, although
# programs that have it open keep whoever opens it from reaching any other.
_FORGOTTEN = f"""
n=0
while {_IS_SERVED} || {_IS_PLUGGED}; do
    [ $n -lt 25 ] || exit {_NOT_FORGOTTEN}
    n=$((n + 1))
    sleep .1 2>/dev/null || sleep 1
done
"""

# Terminals that can be opened: the kernel has nodes for eight, whether there is something behind them or not.
_USABLE = 'for d in /dev/hvc*; do [ -c "$d" ] && (exec 3<>"$d") && echo "$d"; done 2>/dev/null'

# The new one among them, once the guest has noticed it.
_FIND = f"""
n=0
while [ $n -lt 15 ]; do
    for d in $({_USABLE}); do
        case " $KNOWN " in *" $d "*) ;; *) echo "$d"; exit 0 ;; esac
    done
    n=$((n + 1))
    sleep .1 2>/dev/null || sleep 1
done
exit 1
"""

# A shell that opens a terminal as the leader of a session without one has it from then on; see credentials(7). What a
# shell starts in the background, as channels do with every command, ignores SIGINT and SIGQUIT, and no shell can undo
# that for itself and what it starts.
_SHELL = r"""
exec <>"$0" >&0 2>&1 || exit
stty rows "$ROWS" cols "$COLUMNS" 2>/dev/null
unset ROWS COLUMNS SCRIPT TTY
PS1="root@$(hostname 2>/dev/null):\$PWD# "
SHELL=$(command -v bash || echo /bin/sh)
export PS1 SHELL
cd
case $SHELL in *bash) set -- bash --login ;; *) set -- sh -l ;; esac
case $(grep SigIgn /proc/$$/status) in *[2367abef]) ;; *) exec "$@" ;; esac
env --default-signal=INT,QUIT true 2>/dev/null && exec env --default-signal=INT,QUIT "$@"
command -v perl >/dev/null && exec perl -e '$SIG{INT} = $SIG{QUIT} = "DEFAULT"; exec @ARGV' "$@"
command -v login >/dev/null && grep -q ^root: /etc/passwd 2>/dev/null && exec login -f root
echo "Ctrl-C reaches no program here; Ctrl-Z does, and then kill -9 %1."
exec "$@"
"""
_SESSION = 's=; command -v setsid >/dev/null && s=setsid; $s sh -c "$SCRIPT" "$TTY"'
# One after the other, until the terminal is gone.
_SERVICE = f"""
while {_IS_PLUGGED}; do {_SESSION}; sleep 1; done
"""


class RootShell:
    """The terminal of one machine, plugged in when it is first asked for. For the loop.

    Attributes: `path`, the socket on the host, as long as the terminal is plugged in.
    """

    def __init__(self, instance: Instance, *, size: tuple[int, int] = (24, 80)) -> None:
        """`size` is in rows and columns."""
        self.path = instance.folder / "shell"
        self._instance = instance
        self._tty = ""
        self._size = size

    async def session(self) -> int:
        """Run one shell, to be used at the socket, and return its exit status when the person has left it.

        :raises ChannelLost, GuestDied: the guest rebooted, or QEMU ended.
        """
        liveness, slowness = self._instance.qmp.liveness, self._instance.spec.slowness
        status, _ = await liveness.explained(self._run(_SESSION), _PATIENCE_WITH_THE_END * slowness)
        return status

    async def serve(self) -> None:
        """Have a shell on the terminal for as long as it is plugged in: when one is left, there is another.

        :raises VmError: as `plug`.
        """
        if await self._is_there() and (await self._run(_IS_SERVED))[0] == 0:
            return
        await self.plug()
        loop = f"sh -c {shlex.quote(_SERVICE)} {_NAME} </dev/null >/dev/null 2>&1 &"
        await self._run(f"s=; command -v setsid >/dev/null && s=setsid; $s {loop}")

    async def plug(self) -> None:
        """Plug the terminal in; one that is there already is replaced.

        :raises VmError: it cannot be had; the message says why in a few words.
        """
        if self._instance.config.channel in ("ssh", "none"):
            raise VmError(f"the machine has no port for it (channel={self._instance.config.channel})")
        await self.unplug()
        status, known = await self._run(_FORGOTTEN + _USABLE)
        if status == _NOT_FORGOTTEN:
            raise VmError("the guest has not let go of the one before")
        qmp = self._instance.qmp
        address = {"type": "unix", "data": {"path": str(self.path)}}
        server = {"type": "socket", "data": {"addr": address, "server": True, "wait": False}}
        try:
            await qmp.command("chardev-add", {"id": _DEVICE, "backend": server}, _PATIENCE_WITH_QEMU)
            self.path.chmod(0o600)
            device = {"driver": "virtconsole", "bus": "serial0.0", "chardev": _DEVICE, "id": _DEVICE, "name": _NAME}
            await qmp.command("device_add", device, _PATIENCE_WITH_QEMU)
        except QmpError as refusal:
            raise VmError(f"QEMU refuses it: {refusal.description}") from None
        status, found = await self._run(_FIND, KNOWN=" ".join(known.split()))
        if status != 0:
            await self.unplug()
            raise VmError("the guest has no driver for it (virtio_console); its serial console is what there is")
        self._tty = found.strip()

    async def unplug(self) -> None:
        """Take the terminal away, and with it the shell; nothing happens if there is none."""
        if not await self._is_there():
            return
        qmp = self._instance.qmp
        await qmp.attempt("device_del", {"id": _DEVICE})
        deadline = time.monotonic() + _PATIENCE_WITH_QEMU
        while time.monotonic() < deadline:  # QEMU lets go of it a little later
            try:
                await qmp.command("chardev-remove", {"id": _DEVICE}, _PATIENCE_WITH_QEMU)
                break
            except QmpError:
                await asyncio.sleep(0.01)
        self.path.unlink(missing_ok=True)

    async def resize(self, rows: int, columns: int) -> None:
        """Tell the guest the size of the person's terminal."""
        self._size = rows, columns
        if self._tty:
            await self._run(f'stty rows {rows} cols {columns} <"$TTY" || :')

    async def _is_there(self) -> bool:
        devices = await self._instance.qmp.command("query-chardev", timeout=_PATIENCE_WITH_QEMU)
        return any(device["label"] == _DEVICE for device in devices)

    async def _run(self, script: str, **variables: str) -> tuple[int, str]:
        """Run a script in the guest: its exit status and what it printed."""
        instance = self._instance
        try:
            channel = await instance.channels.channel(_PATIENCE_WITH_THE_CHANNEL)
        except ChannelError:
            raise VmError(f"the guest does not answer ({instance.channels.why_none()})") from None
        rows, columns = self._size
        terminal = os.environ.get("TERM", "")
        env = {
            "TTY": self._tty,
            "SCRIPT": _SHELL,
            "TERM": terminal if _TERMINAL.fullmatch(terminal) else "vt220",
            "ROWS": str(rows),
            "COLUMNS": str(columns),
            **variables,
        }
        printed = bytearray()
        text = Command(script, env).script()
        status = await channel.execute(text, input=b"", stdout=printed.extend, stderr=lambda _: None)
        return status, printed.decode(errors="replace")
