"""``readonly-vm shell``: a root shell in a guest that has booted, or one command there."""

import argparse
import asyncio
import socket
import sys

from pytest_readonly_vm.cli.boot import on_console
from pytest_readonly_vm.cli.machine import declare_machine, farewell, read_machine, started
from pytest_readonly_vm.config.setting import Part
from pytest_readonly_vm.errors import GuestDied, VmError
from pytest_readonly_vm.host.loop import within
from pytest_readonly_vm.host.terminal import Ending, Terminal
from pytest_readonly_vm.machine.root_shell import RootShell
from pytest_readonly_vm.machine.vm import VirtualMachine

HELP = "a root shell in a guest, or one command there; the guest ends with it, and its image is not written"

_PATIENCE = 10.0


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-c", dest="script", metavar="COMMAND", help="run this by the guest's sh, and exit as it does")
    declare_machine(parser, Part.SHELL)


def run(arguments: argparse.Namespace) -> int:
    config = read_machine(arguments, Part.SHELL)
    with Terminal() as terminal:
        if terminal.is_interactive and arguments.script is None:
            terminal.say(f"starting {arguments.image or arguments.kernel}, which is not written; Ctrl-] ends it")
        with started(config, terminal) as vm:
            if arguments.script is not None or not terminal.is_interactive:
                return execute(vm, arguments.script, b"" if terminal.is_interactive else sys.stdin.buffer.read())
            return session(vm, terminal)


def execute(vm: VirtualMachine, script: str | None, input: bytes) -> int:
    """Run a script, with an input; without a script, the input is one. What it prints goes where ours goes."""
    result = vm.run(["/bin/sh"] if script is None else script, check=False, input=input)
    for stream, data in ((sys.stdout, result.stdout_bytes), (sys.stderr, result.stderr_bytes)):
        stream.buffer.write(data)
        stream.flush()
    return result.exit_code


def session(vm: VirtualMachine, terminal: Terminal) -> int:
    """Give the terminal to a root shell, until it is left or Ctrl-] is pressed, and return the status of its exit.

    Where the guest can have none on a terminal of its own, the serial console takes its place.
    """
    loop = vm.loop
    shell = RootShell(vm.instance, size=terminal.size())
    try:
        loop.run(within(_PATIENCE, shell.plug()))
    except (VmError, TimeoutError) as reason:
        terminal.say(f"no root shell: {reason or 'the guest does not answer'}; this is the serial console")
        status, how = on_console(vm, terminal)
        terminal.say(how)
        return status
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(str(shell.path))
        running = asyncio.run_coroutine_threadsafe(shell.session(), loop.loop)
        running.add_done_callback(lambda _: _shut(line))
        ending = terminal.lend(
            line,
            on_resize=lambda rows, columns: asyncio.run_coroutine_threadsafe(shell.resize(rows, columns), loop.loop),
        )
        if ending is Ending.LEFT:
            terminal.say("the machine is ended")
            return 0
        try:
            return running.result(_PATIENCE)
        except GuestDied:
            status, how = farewell(vm)
        except (VmError, TimeoutError) as error:
            status, how = (
                1,
                str(vm.trouble or error).removeprefix(f"{vm.name}: ") or "the guest does not answer any more",
            )
    terminal.say(how)
    return status


def _shut(line: socket.socket) -> None:
    """Have whoever reads there find its end, after what has come already."""
    if line.fileno() != -1:
        line.shutdown(socket.SHUT_RDWR)
