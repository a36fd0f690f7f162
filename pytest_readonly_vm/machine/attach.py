"""Owns the ways for a person into a machine that runs: a root shell, SSH, its display, a debugger for its processor.

Each is opened when it is asked for and is a socket in the machine's own folder, which is for this user alone and goes
with the machine. Nothing listens on a network, forwarded SSH apart, which is on the loopback.
"""

import contextlib
import shlex
import shutil

from pytest_readonly_vm.channels.ssh import Ssh
from pytest_readonly_vm.config.qemu_args import escaped
from pytest_readonly_vm.errors import QmpError, VmError
from pytest_readonly_vm.host.loop import within
from pytest_readonly_vm.machine.root_shell import RootShell
from pytest_readonly_vm.machine.vm import VirtualMachine
from pytest_readonly_vm.qemu.instance import Instance

_PATIENCE_WITH_THE_GUEST = 5.0
_PATIENCE_WITH_QEMU = 2.0


def open_doors(vm: VirtualMachine) -> list[str]:
    """Open all that can be opened, for at most 14 s; a line for each, to be shown to a person. Raises nothing.

    A line has a command to paste into another terminal, or says why there is none.
    """
    return vm.loop.run(_lines(vm.instance))


def close_doors(vm: VirtualMachine) -> None:
    """Take away what is a device of the guest, the root shell's terminal, for at most 5 s. Raises nothing.

    A machine that has it cannot be copied.
    """
    with contextlib.suppress(VmError, OSError, TimeoutError):
        vm.loop.run(within(_PATIENCE_WITH_THE_GUEST, RootShell(vm.instance).unplug()))


async def _lines(instance: Instance) -> list[str]:
    obstacle, for_all = await _obstacle(instance)
    lines = []
    for name, patience, needs_guest, door in (
        ("root shell", _PATIENCE_WITH_THE_GUEST, True, shell_door),
        ("ssh", _PATIENCE_WITH_THE_GUEST, True, ssh_door),
        ("display", _PATIENCE_WITH_QEMU, False, vnc_door),
        ("gdb", _PATIENCE_WITH_QEMU, False, gdb_door),
    ):
        try:
            if obstacle and (needs_guest or for_all):
                raise VmError(obstacle)
            line = await within(patience, door(instance))
        except TimeoutError:
            line = f"none: no answer within {patience:g} s"
        except (VmError, OSError) as error:
            line = f"none: {str(error).removeprefix(f'{instance.name}: ')}"
        lines.append(f"{name}: {line}")
    return lines


async def shell_door(instance: Instance) -> str:
    """A command that leads to a root shell on a terminal of its own.

    :raises VmError: there can be none.
    """
    columns, rows = shutil.get_terminal_size()
    shell = RootShell(instance, size=(rows, columns))
    await shell.serve()
    return f"readonly-vm attach {shlex.quote(str(shell.path))}"


async def ssh_door(instance: Instance) -> str:
    """A command that logs in over SSH.

    :raises VmError: nobody has opened the connection so far: whether a guest has sshd shows only after a while.
    """
    found = instance.channels.found
    ssh = found if isinstance(found, Ssh) else instance.ssh
    if ssh is None and instance.config.network == "none":
        raise VmError("the machine has no network")
    if ssh is None:
        raise VmError("not open; vm.ssh_command() opens it if the guest has sshd")
    return ssh.ssh_command()


async def vnc_door(instance: Instance) -> str:
    """A command that shows the display.

    :raises VmError: the machine has none, or QEMU no VNC.
    """
    path = instance.folder / "vnc"
    await instance.screen.picture()  # which tells whether there is a display
    address = {"type": "unix", "path": str(path)}
    try:
        await instance.qmp.command("display-update", {"type": "vnc", "addresses": [address]}, _PATIENCE_WITH_QEMU)
    except QmpError as refusal:
        raise VmError(f"QEMU has no VNC for it: {refusal.description}") from None
    path.chmod(0o600)
    return f"vncviewer {shlex.quote(str(path))}"


async def gdb_door(instance: Instance) -> str:
    """A command that debugs the guest's kernel or firmware; while gdb is connected, the guest stands still.

    :raises VmError: QEMU refuses.
    """
    path = instance.folder / "gdb"
    if not path.exists():
        where = escaped(str(path)).replace("\\", "\\\\").replace('"', '\\"')
        line = f'gdbserver "unix:{where},server=on,wait=off"'
        said = await instance.qmp.command("human-monitor-command", {"command-line": line}, _PATIENCE_WITH_QEMU)
        if not path.exists():
            raise VmError(f"QEMU refuses it: {said.strip()}")
        path.chmod(0o600)
    return f"gdb -ex {shlex.quote(f'target remote {path}')}"


async def _obstacle(instance: Instance) -> tuple[str, bool]:
    """Why no guest will answer, or nothing; and whether QEMU will not, either."""
    try:
        status = await instance.qmp.command("query-status", timeout=_PATIENCE_WITH_QEMU)
    except VmError as error:
        return str(error).removeprefix(f"{instance.name}: "), True
    return "" if status["running"] else f"the guest stands still ({status['status']})", False
