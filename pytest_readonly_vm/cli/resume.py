"""``readonly-vm resume``: a machine that goes on from a capsule, with a root shell in it."""

import argparse
import sys
from pathlib import Path

from pytest_readonly_vm.cli.settings import given_settings
from pytest_readonly_vm.cli.shell import execute, session
from pytest_readonly_vm.cli.warned import warnings_said
from pytest_readonly_vm.config.image_reference import ImageReference
from pytest_readonly_vm.config.setting import Given, Part
from pytest_readonly_vm.config.settings import VmConfig, settings_in
from pytest_readonly_vm.errors import ConfigurationError, VmError
from pytest_readonly_vm.evidence.capsule.opened import Capsule, open_capsule
from pytest_readonly_vm.evidence.capsule.resume import resume_capsule
from pytest_readonly_vm.host.terminal import Terminal
from pytest_readonly_vm.machine.attach import open_doors
from pytest_readonly_vm.machine.lab import Lab
from pytest_readonly_vm.machine.vm import VirtualMachine
from pytest_readonly_vm.sources.image_list import listed

HELP = "a root shell in the guest of a capsule, which goes on from the moment when its test failed"


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("capsule", type=Path, metavar="CAPSULE", help="file that a run with --vm-capsule has saved")
    parser.add_argument(
        "--image", metavar="IMAGE", help="the base image, if it is not where it was: a path, a name, a URL"
    )
    parser.add_argument("--cdrom", metavar="IMAGE", help="the image of its CD, likewise")
    parser.add_argument(
        "--disk", metavar="NAME=IMAGE", action="append", default=[], help="that of a further disk, likewise; repeatable"
    )
    parser.add_argument("-c", dest="script", metavar="COMMAND", help="run this by the guest's sh, and exit as it does")
    parser.add_argument("--run", action="store_true", help="let a guest go on that was paused or had panicked")
    parser.add_argument(
        "--allow-qemu-args", action="store_true", help="start QEMU with what the capsule adds to its arguments"
    )
    parser.add_argument(
        "--network", action="store_true", help="let connections out of the guest, as while it was tested"
    )


def run(arguments: argparse.Namespace) -> int:
    with Terminal() as terminal, open_capsule(arguments.capsule) as capsule, Lab(tell=terminal.say) as lab:
        terminal.say(capsule.describe())
        goes_on = capsule.manifest.is_running or arguments.run
        if arguments.script is not None and not goes_on:
            raise VmError(f"nothing runs in the guest, as it was {capsule.state}; --run lets it go on")
        with warnings_said(terminal.say):
            vm = resume_capsule(
                lab,
                capsule,
                image=_image(arguments.image, "--image"),
                cdrom=_image(arguments.cdrom, "--cdrom"),
                disks=_disks(arguments.disk),
                run=arguments.run,
                allow_qemu_args=arguments.allow_qemu_args,
                network=arguments.network,
                local=_local(monitor=arguments.script is None),
            )
        if arguments.script is not None:
            status = execute(vm, arguments.script, b"" if terminal.is_interactive else sys.stdin.buffer.read())
        elif goes_on:
            status = session(vm, terminal)
        else:
            status = _stand_by(vm, capsule, terminal)
        vm.close()
        lab.check_bases(during="it")
        return status


def _local(*, monitor: bool) -> VmConfig:
    """The settings of this computer, from the environment, as in a run of pytest."""
    environment = given_settings(argparse.Namespace(), settings_in(Part.RESUME))
    return VmConfig(monitor=monitor).with_settings(environment)


def _disks(given: list[str]) -> dict[str, Path | ImageReference]:
    """:raises ConfigurationError: one is not of the form NAME=IMAGE; otherwise as `_image`."""
    disks = {}
    for one in given:
        name, equals, written = one.partition("=")
        if not (name and equals and written):
            raise ConfigurationError(f"--disk: {one!r} is not of the form NAME=IMAGE")
        found = _image(written, "--disk")
        assert found is not None
        disks[name] = found
    return disks


def _image(written: str | None, option: str) -> Path | ImageReference | None:
    """What is meant by an image, of which a list says no more here than where it is: the rest is the capsule's.

    :raises ConfigurationError: it is no URL, or no list has the name.
    """
    if written is None:
        return None
    return listed(VmConfig().with_settings({"image": Given(written, option, Path.cwd())})).image


def _stand_by(vm: VirtualMachine, capsule: Capsule, terminal: Terminal) -> int:
    """Let a person look at a guest that stands still."""
    terminal.say(f"nothing runs in the guest, as it was {capsule.state}; --run lets it go on. Enter ends it.")
    for line in (*vm.how_to_connect().splitlines(), *open_doors(vm)):
        terminal.say(line)
    sys.stdin.readline()
    return 0
