"""``readonly-vm doctor``: whether this computer has what machines need, and what to do where it has not."""

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from pytest_readonly_vm.cli.settings import given_settings
from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.errors import ConfigurationError, HostError
from pytest_readonly_vm.host.accel import PROVABLE, choose, prove
from pytest_readonly_vm.host.budget import Budget
from pytest_readonly_vm.host.firmware import find_firmware
from pytest_readonly_vm.host.qemu_binary import Qemu, find_qemu, find_qemu_img
from pytest_readonly_vm.host.seal import Bounds, Landlock, landlock_abi
from pytest_readonly_vm.printable import count
from pytest_readonly_vm.qemu.board import machine_type
from pytest_readonly_vm.sources import store as image_store
from pytest_readonly_vm.start.cache import TemplateCache, default_folder

HELP = "check what this computer has for machines, and say what to do"

_ROOM_TO_BOOT = 64 << 20
_ROOM_TO_WORK = 4 << 30
_COLOURS = {"ok": "32", "warn": "33", "FAIL": "31"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line."""

    name: str
    state: Literal["ok", "warn", "FAIL"]
    found: str
    advice: str = ""


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="a list of objects: name, state, found, advice")


def run(arguments: argparse.Namespace) -> int:
    findings = []
    for finding in examine():
        findings.append(finding)
        if not arguments.json:
            print(_line(finding, coloured=sys.stdout.isatty() and "NO_COLOR" not in os.environ), flush=True)
    if arguments.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        print(f"\n{_verdict(findings)}")
    return int(any(finding.state == "FAIL" for finding in findings))


def examine() -> Iterator[Finding]:
    """All findings, each as soon as it is made. Nothing of this computer is changed, but what is known of its KVM."""
    yield Finding("Python", "ok", f"{platform.python_version()}, {sys.executable}")
    yield Finding("plugin", "ok", f"pytest-readonly-vm {version('pytest-readonly-vm')}")
    for package in ("pytest", "pytest-timeout", "pytest-xdist", "qemu.qmp"):
        yield _package(package)
    try:
        qemu = find_qemu(None, origin="the default")
    except HostError as error:
        yield Finding("QEMU", "FAIL", *_halves(str(error)))
    else:
        yield Finding("QEMU", "ok", f"{qemu.version} {qemu.arch}, {qemu.path}")
        yield _guarded("qemu-img", lambda: Finding("qemu-img", "ok", str(find_qemu_img(None))))
        yield _guarded("accelerator", lambda: _accelerator(qemu))
        yield _sandbox(qemu)
        yield _firmware(qemu)
    yield _landlock()
    yield _temporary_room(Path(os.environ.get("TMPDIR") or "/var/tmp"))
    yield _memory(Budget.of_host())
    yield _shared_memory()
    yield _guarded("cache", lambda: _cache(_of_environment("cache", "cache_size")))
    yield _guarded("images", lambda: _images(_of_environment("image_store", "image_store_size")))
    yield _program("ssh", "only for --vm-channel=ssh and vm.ssh_command()", "openssh-client")
    yield _program("tesseract", "only for screen.wait_for_text()", "tesseract-ocr")


def _of_environment(*settings: str) -> VmConfig:
    return VmConfig().with_settings(given_settings(argparse.Namespace(), settings))


def _guarded(name: str, look: Callable[[], Finding]) -> Finding:
    try:
        return look()
    except (ConfigurationError, HostError, OSError) as error:
        return Finding(name, "FAIL", *_halves(str(error)))


def _halves(sentence: str) -> tuple[str, str]:
    """What was found and what to do, in a sentence of `HostError`."""
    found, _, advice = sentence.partition(": on Debian")
    return (found, f"on Debian{advice}") if advice else (found, "")


def _package(name: str) -> Finding:
    try:
        return Finding(name, "ok", version(name))
    except PackageNotFoundError:
        if name == "pytest-xdist":
            return Finding(name, "ok", "not installed; only for parallel runs (-n)")
        return Finding(name, "FAIL", "not installed", f"pip install {name}")


def _accelerator(qemu: Qemu) -> Finding:
    accelerator = choose("auto", qemu, origin="the default", anew=True)  # for the runs after this as well
    if accelerator.name == "kvm":
        return Finding("accelerator", "ok", accelerator.describe())
    if qemu.arch in PROVABLE and (obstacle := prove("tcg", qemu).obstacle):
        return Finding("accelerator", "FAIL", f"{accelerator.describe()}; and {obstacle}", "reinstall QEMU")
    proved = ", proved by running a guest" if qemu.arch in PROVABLE else ""
    advice = "guests run many times slower than with KVM; use a computer or CI runner that has it if you can"
    return Finding("accelerator", "warn", f"tcg{proved}; {accelerator.reason}", advice)


def _sandbox(qemu: Qemu) -> Finding:
    if qemu.has_sandbox:
        return Finding("seccomp", "ok", "QEMU has its sandbox")
    return Finding("seccomp", "warn", "this QEMU was built without its sandbox", "use your distribution's QEMU")


def _firmware(qemu: Qemu) -> Finding:
    machine = machine_type(VmConfig(), qemu.arch)
    try:
        found = find_firmware(qemu, machine=machine, secure=False)
    except HostError as error:
        lacking, advice = _halves(str(error))
        return Finding("firmware", "warn", f"{lacking}; only for images that boot by UEFI", advice)
    return Finding("firmware", "ok", f"UEFI by {found.code.path}")


def _landlock() -> Finding:
    if not landlock_abi():
        advice = "use Linux 5.13 or later with landlock in lsm= on its command line; until then a test with the"
        return Finding("Landlock", "warn", "this kernel has none", f"{advice} monitor could write the image")
    with tempfile.TemporaryDirectory() as folder:
        try:
            Landlock(Bounds(folder=Path(folder), tcp=False)).close()
        except OSError as error:
            return Finding("Landlock", "FAIL", f"version {landlock_abi()}, refused: {error}", "use --vm-seal=off")
    return Finding("Landlock", "ok", f"version {landlock_abi()}")


def _temporary_room(folder: Path) -> Finding:
    name = "temporary room"
    advice = "set TMPDIR or --vm-tmpdir to a folder on a larger disk"
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Finding(name, "FAIL", f"{folder}: {error.strerror}", advice)
    if not os.access(folder, os.W_OK | os.X_OK):
        return Finding(name, "FAIL", f"{folder} cannot be written", advice)
    found = f"{_gibibytes(free)} free in {folder}"
    if free < _ROOM_TO_BOOT:
        return Finding(name, "FAIL", found, advice)
    return Finding(name, "warn", found, advice) if free < _ROOM_TO_WORK else Finding(name, "ok", found)


def _memory(budget: Budget) -> Finding:
    found = f"{_gibibytes(budget.memory)} and {budget.cpus} guest CPUs for all machines together"
    if budget.memory < VmConfig().memory:
        return Finding("budget", "warn", found, "a machine has 1 GiB by default; use --vm-memory=256M or the like")
    return Finding("budget", "ok", found)


def _shared_memory() -> Finding:
    """Frozen guests are in memory without a name, which a small /dev/shm, as containers have it, does not limit."""
    try:
        os.close(os.memfd_create("doctor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
    except OSError as error:
        return Finding("memory files", "FAIL", f"memfd_create: {error.strerror}", "use --vm-start=cold")
    try:
        free = f"{_gibibytes(shutil.disk_usage('/dev/shm').free)} free in /dev/shm"
    except OSError:
        free = "there is no /dev/shm"
    return Finding("memory files", "ok", f"memfd can be sealed; {free}")


def _cache(config: VmConfig) -> Finding:
    folder, limit = config.cache or default_folder(), config.cache_size
    if not folder.exists():
        return Finding("cache", "ok", f"nothing in {folder} yet, at most {_gibibytes(limit)}")
    try:
        entries = TemplateCache(folder, limit=0).entries()
    except HostError as error:
        return Finding("cache", "FAIL", str(error), "or use --vm-no-cache")
    used = sum(entry.size for entry in entries)
    number = count(len(entries), "frozen guest")
    return Finding("cache", "ok", f"{number} in {folder}, {_gibibytes(used)} of at most {_gibibytes(limit)}")


def _images(config: VmConfig) -> Finding:
    folder, limit = config.image_store or image_store.default_folder(), config.image_store_size
    if not folder.exists():
        return Finding("images", "ok", f"nothing downloaded or unpacked in {folder} yet, at most {_gibibytes(limit)}")
    try:
        used = [entry.size for entry in image_store.ImageStore(folder, limit=limit).entries()]
    except HostError as error:
        return Finding("images", "FAIL", str(error))
    found = f"{count(len(used), 'image')} in {folder}, {_gibibytes(sum(used))} of at most {_gibibytes(limit)}"
    return Finding("images", "ok", found)


def _program(name: str, purpose: str, package: str) -> Finding:
    if path := shutil.which(name):
        return Finding(name, "ok", path)
    return Finding(name, "warn", f"not installed; needed {purpose}", f"on Debian and Ubuntu install {package}")


def _gibibytes(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB"


def _line(finding: Finding, *, coloured: bool) -> str:
    state = finding.state.ljust(4)
    if coloured:
        state = f"\x1b[{_COLOURS[finding.state]}m{state}\x1b[0m"
    lines = [f"{state}  {finding.name:<14}  {finding.found}", *filter(None, [finding.advice])]
    return f"\n{'':22}".join(lines)


def _verdict(findings: Sequence[Finding]) -> str:
    states = [finding.state for finding in findings]
    if "FAIL" in states:
        return "No machine runs here, or none as configured: see FAIL."
    warnings = states.count("warn")
    found = f", with {count(warnings, 'warning')}" if warnings else ""
    return f"Machines run here{found}."
