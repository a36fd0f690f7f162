"""``readonly-vm boot``: a guest's serial console in this terminal, from the first byte."""

import argparse
import asyncio
import contextlib
import socket

from pytest_readonly_vm.cli.machine import declare_machine, farewell, read_machine, started
from pytest_readonly_vm.config.setting import Part
from pytest_readonly_vm.errors import GuestPanicked, VmError, WaitTimeout
from pytest_readonly_vm.host.loop import cancel
from pytest_readonly_vm.host.terminal import Ending, Terminal
from pytest_readonly_vm.machine.vm import VirtualMachine

HELP = "boot an image, read-only, with its serial console in this terminal"

_PIECE = 1 << 16


def declare(parser: argparse.ArgumentParser) -> None:
    declare_machine(parser, Part.BOOT)


def run(arguments: argparse.Namespace) -> int:
    config = read_machine(arguments, Part.BOOT).replace(ready="none", channel="none", start="cold")
    with Terminal() as terminal:
        if terminal.is_interactive:
            terminal.say(f"booting {config.boots}, which is not written; Ctrl-] ends the machine")
        with started(config, terminal) as vm:
            status, how = on_console(vm, terminal)
        base = config.image or config.cdrom
        terminal.say(f"{how}; {base} is as it was" if base else how)
    return status


def on_console(vm: VirtualMachine, terminal: Terminal) -> tuple[int, str]:
    """Give the terminal to the serial console, with all that came before, until the guest ends or Ctrl-] is pressed.

    Returns the exit status that fits, and why it is over.
    """
    ours, its = socket.socketpair()
    its.setblocking(False)
    wire = asyncio.run_coroutine_threadsafe(_connected(vm, its), vm.loop.loop)
    with ours:
        ending = terminal.lend(ours)
    if ending is Ending.LEFT:
        wire.cancel()
        return 0, "the machine is ended"
    wire.result()
    return farewell(vm)


async def _connected(vm: VirtualMachine, line: socket.socket) -> None:
    """Copy between the console and a socket, on the loop, until the guest has ended or panicked; then close it."""
    loop = asyncio.get_running_loop()
    over = asyncio.Event()

    async def until_the_end() -> None:
        process = vm.instance.process
        while process.returncode is None:
            try:
                await vm.qmp.liveness.race(process.ended(), anew=True)
            except GuestPanicked:
                break
            except VmError:  # a reset, which a guest may do, or a pause; or the end of QEMU
                continue
        over.set()

    others = [asyncio.ensure_future(work) for work in (until_the_end(), _type(vm, line), over.wait())]
    try:
        with line, vm.console.log_path.open("rb", buffering=0) as log:
            is_over = False
            while not is_over:
                is_over = over.is_set()
                news = asyncio.ensure_future(vm.console.next_news().wait())
                while data := log.read(_PIECE):
                    await loop.sock_sendall(line, data)
                if not is_over:
                    await asyncio.wait((news, others[-1]), return_when=asyncio.FIRST_COMPLETED)
                news.cancel()
    except ConnectionError:  # the person has left
        pass
    finally:
        await cancel(*others)


async def _type(vm: VirtualMachine, line: socket.socket) -> None:
    """Type what comes from a socket; what the guest does not take in time is lost, as with any serial line."""
    with contextlib.suppress(VmError, OSError):
        while data := await asyncio.get_running_loop().sock_recv(line, _PIECE):
            with contextlib.suppress(WaitTimeout):
                await vm.console.typed(data)
