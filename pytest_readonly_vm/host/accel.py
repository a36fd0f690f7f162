"""Owns the choice of accelerator, by proof: a device that opens is not an accelerator that runs guests.

Some hosts, often virtual machines themselves, offer a ``/dev/kvm`` that opens and then hangs every guest. So a few
instructions are run under it, through long mode, before it is believed.

What that showed is remembered, as far as asking anew would cost time. That guests run holds as long as this host stays
booted. A guest that did not get to its end in time has hung, or the host was busy: so it is tried again later, with
twice the time, and later still. A refusal is not remembered at all: QEMU gives it at once, and its cause may go.
"""

import contextlib
import json
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path

from pytest_readonly_vm.errors import AcceleratorUnavailable, HostError
from pytest_readonly_vm.host.folders import user_cache
from pytest_readonly_vm.host.locks import wait_for_lock
from pytest_readonly_vm.host.process import ending, last_words
from pytest_readonly_vm.host.proof_firmware import PROVED, firmware
from pytest_readonly_vm.host.qemu_binary import Qemu, host_arch
from pytest_readonly_vm.host.tool import run_tool

_KVM = Path("/dev/kvm")
_PATIENCE = 3.0  # TCG takes 0.03 s for the same guest
_MOST_PATIENCE = 12.0
_KEPT_FOR = 100
"""How many times as long as it took a hang is believed: so all proofs together take 1 % of the time at most."""
_MOST_REMEMBERED = 1 << 20  # bytes
_MACHINES = (
    "pc",
    "q35",
    "pc-i440fx-",
    "pc-q35-",
    "microvm",
)  # those that there may be, the first that is there is used
PROVABLE = ("x86_64", "i386")


@dataclass(frozen=True, slots=True)
class Accelerator:
    """What runs the guest's instructions, and why it was chosen."""

    name: str
    reason: str
    tried: float | None = None
    """When it showed that another one does not run guests, as `_now` counts, if that may be otherwise by now."""

    def describe(self) -> str:
        return f"{self.name} ({self.reason})"

    def describe_with_age(self) -> str:
        """The same for who may want to have it tried again."""
        return f"{self.name} ({self.reason}{_age(self.tried)})"


@dataclass(frozen=True, slots=True)
class Proof:
    """How the attempt to run a guest ended."""

    obstacle: str | None
    """What went wrong; None when the guest got to its end."""
    waited: float | None = None
    """For how many seconds the guest was waited for in vain, if it was not refused."""
    at: float = 0.0

    def holds(self, now: float) -> bool:
        """Whether it need not be made anew."""
        return self.waited is None or 0 <= now - self.at < self.waited * _KEPT_FOR


def choose(wanted: str, qemu: Qemu, *, origin: str, anew: bool = False) -> Accelerator:
    """The accelerator for `wanted`: ``auto``, ``kvm`` or ``tcg``.

    :param anew: whether to try KVM whatever is remembered of it.
    :raises AcceleratorUnavailable: ``kvm`` was asked for and does not run guests here; the message says why.
    """
    if wanted == "tcg":
        return Accelerator("tcg", f"asked for by {origin}")
    obstacle = _obstacle_to_kvm(qemu)
    tried = None
    if obstacle is None and qemu.arch in PROVABLE:  # for others, QEMU's own check at the start has to do
        proof = _proof(qemu, anew=anew)
        obstacle = proof.obstacle
        tried = proof.at if proof.waited is not None else None
    if obstacle is None:
        is_proved = qemu.arch in PROVABLE
        return Accelerator("kvm", "proved by running a guest" if is_proved else f"{_KVM} opens; no guest was tried")
    if wanted == "kvm":
        raise AcceleratorUnavailable(f"accel=kvm (from {origin}) cannot be had: {obstacle}{_age(tried)}")
    return Accelerator("tcg", f"no KVM: {obstacle}", tried)


def _age(tried: float | None) -> str:
    minutes = 0 if tried is None else int(_now() - tried) // 60
    if not minutes:
        return ""
    return f"; that was {minutes} min ago, readonly-vm doctor tries it again"


def _now() -> float:
    """Seconds since this host was booted, which nobody sets."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _obstacle_to_kvm(qemu: Qemu) -> str | None:
    """Why KVM cannot be had for this emulator's guests, as far as that shows without one."""
    family = {"i386": "x86_64"}.get(qemu.arch, qemu.arch)
    if family != host_arch():
        return f"a {qemu.arch} guest on a {host_arch()} computer"
    try:
        os.close(os.open(_KVM, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return f"{_KVM} does not exist (virtualisation is off in the firmware, or this is a guest without nesting)"
    except PermissionError:
        return (
            f"{_KVM} may not be opened by this user; join the group kvm: sudo usermod -aG kvm $USER, then log in anew"
        )
    except OSError as error:
        return f"{_KVM} cannot be opened: {error.strerror}"
    return None


def _proof(qemu: Qemu, *, anew: bool) -> Proof:
    """What is remembered, or what shows now."""
    with _memory() as (boot, proofs):
        key = f"{boot} {platform.release()} {qemu.identity()}"
        known = proofs.get(key)
        if known is not None and known.holds(_now()) and not anew:
            return known
        patience = min(2 * known.waited, _MOST_PATIENCE) if known is not None and known.waited else _PATIENCE
        found = prove("kvm", qemu, patience=patience)
        if found.obstacle is None or found.waited is not None:
            proofs[key] = found
        else:
            proofs.pop(key, None)
        return found


@contextlib.contextmanager
def _memory() -> Iterator[tuple[str, dict[str, Proof]]]:
    """This boot of the host, and the proofs made since then, to be changed.

    They are in a file that all runs share, each waiting for the proof that another makes instead of making its own.
    That is a help and no more: where it cannot be had, what is remembered is this process's.
    """
    with contextlib.ExitStack() as opened:
        try:
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            folder = user_cache()
            folder.mkdir(parents=True, exist_ok=True)
            file = (folder / "accelerators.json").resolve()  # a lock follows no links
            lock = wait_for_lock(file, make=0o600, patience=_MOST_PATIENCE + _PATIENCE)
            if lock is None:  # who holds it does so for longer than a proof takes, as one that was stopped
                raise BlockingIOError
            opened.enter_context(lock)
            before = _parsed(os.pread(lock.descriptor, _MOST_REMEMBERED, 0), boot)
        except (OSError, HostError):
            yield "", _of_this_process()
            return
        after = before | _of_this_process()
        yield boot, after
        if after != before:
            text = json.dumps({key: astuple(proof) for key, proof in after.items()}).encode()
            try:
                os.ftruncate(
                    lock.descriptor, os.pwrite(lock.descriptor, text, 0)
                )  # what is half written counts as damaged
            except OSError:
                _of_this_process().update(after)


@cache
def _of_this_process() -> dict[str, Proof]:
    return {}


def _parsed(text: bytes, boot: str) -> dict[str, Proof]:
    try:
        found = {key: Proof(*proof) for key, proof in json.loads(text).items() if key.startswith(boot)}
        return found if all(map(_is_one, found.values())) else {}
    except (ValueError, TypeError, AttributeError):  # damaged, or of an earlier version
        return {}


def _is_one(proof: Proof) -> bool:
    numbers = isinstance(proof.at, int | float) and isinstance(proof.waited, int | float | None)
    return numbers and isinstance(proof.obstacle, str | None)


def prove(accelerator: str, qemu: Qemu, *, patience: float = _PATIENCE) -> Proof:
    """Run a few instructions through long mode under an accelerator of an x86 emulator, for so many seconds at most."""
    try:
        rom = os.memfd_create("proof", os.MFD_CLOEXEC)
        try:
            os.write(rom, firmware())
            argv = [
                str(qemu.path),
                "-nodefaults",
                "-no-user-config",
                "-no-reboot",
                "-display", "none",
                "-M", _machine(qemu, patience),
                "-m", "2",
                "-accel", accelerator,
                "-bios", f"/proc/self/fd/{rom}",
                "-device", "isa-debug-exit,iobase=0xf4,iosize=1",
            ]  # fmt: skip
            done = run_tool(argv, timeout=patience, pass_fds=(rom,))
        finally:
            os.close(rom)
    except OSError as error:
        return Proof(f"no guest could be tried: {error}")
    if done.returncode == PROVED:
        return Proof(None, at=_now())
    if done.returncode is None:
        return Proof(f"/dev/{accelerator} opens, but a guest of a few instructions hangs under it", patience, _now())
    how = f"a guest of a few instructions did not run under it: QEMU {ending(done.returncode)}"
    return Proof(": ".join([how, *last_words(done.stderr)]))


def _machine(qemu: Qemu, patience: float) -> str:
    """A machine that this QEMU has: builds for distributions or for the cloud leave some out, and the short names."""
    listed = run_tool([str(qemu.path), "-M", "help"], timeout=patience).stdout.splitlines()[1:]
    names = [line.split()[0] for line in listed if line.strip()]
    found = (
        name for kind in _MACHINES for name in names if name == kind or (kind[-1] == "-" and name.startswith(kind))
    )
    return next(found, _MACHINES[0])
