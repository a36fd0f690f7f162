"""Owns what the commands that start a machine have in common: settings as arguments, the start, what people hear."""

import argparse
import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from pytest_readonly_vm.cli.settings import declare_settings, given_settings
from pytest_readonly_vm.cli.warned import warnings_said
from pytest_readonly_vm.config.setting import Given, Part
from pytest_readonly_vm.config.settings import VmConfig, settings_in
from pytest_readonly_vm.errors import ConfigurationError, GuestPanicked
from pytest_readonly_vm.host.terminal import Terminal
from pytest_readonly_vm.machine.lab import Lab
from pytest_readonly_vm.machine.vm import VirtualMachine
from pytest_readonly_vm.sources.image_list import listed


def declare_machine(parser: argparse.ArgumentParser, command: Part) -> None:
    """Add the image and the settings of a command, each under its own name: ``memory`` is ``--memory``."""
    parser.add_argument("image", nargs="?", metavar="IMAGE", help="image, which is never written")
    group = parser.add_argument_group(
        "settings of the machine",
        "As in a run of pytest, where they are called --vm-NAME; each also as PYTEST_VM_NAME.",
    )
    declare_settings(group.add_argument, settings_in(command))


def read_machine(arguments: argparse.Namespace, command: Part) -> VmConfig:
    """The configuration that was asked for: the argument decides, then the environment, then the default.

    :raises ConfigurationError: an impossible value, or nothing to boot.
    """
    given = given_settings(arguments, settings_in(command))
    if arguments.image is not None:
        given["image"] = Given(arguments.image, "IMAGE", Path.cwd())
    config = listed(VmConfig().with_settings(given))
    if config.boots is None:
        raise ConfigurationError("there is nothing to boot: name an IMAGE, a --kernel or a --cdrom")
    return config


@contextlib.contextmanager
def started(config: VmConfig, terminal: Terminal) -> Iterator[VirtualMachine]:
    """A machine that lives as long as this; then it is made sure that its image is what it was.

    :raises VmError: as `Lab.start` and `Lab.check_bases`.
    """
    base = config.boots
    assert base is not None
    with Lab(tell=terminal.say) as lab:
        with warnings_said(terminal.say):
            vm = lab.start(config, name=base.name)
        yield vm
        vm.close()
        lab.check_bases(during="it")


def farewell(vm: VirtualMachine) -> tuple[int, str]:
    """For a machine that has ended by itself: the exit status that fits, and how it ended."""
    reasons: Sequence[str] = [str(event.data.get("reason")) for event in vm.qmp.events if event.name == "SHUTDOWN"]
    if isinstance(vm.trouble, GuestPanicked):
        return 1, str(vm.trouble).removeprefix(f"{vm.name}: ")
    if "guest-shutdown" in reasons:
        return 0, "the guest has shut down"
    if "guest-reset" in reasons:
        return 1, "the guest was reset before it could be told from a crash"
    return 1, f"QEMU {vm.instance.process.verdict()}"
