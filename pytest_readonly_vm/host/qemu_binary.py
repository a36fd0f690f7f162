"""Owns finding QEMU and qemu-img, and asking them what they can do. Versions are shown, never reasoned from."""

import os
import platform
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_readonly_vm.config.architectures import of_computer
from pytest_readonly_vm.errors import HostError, QemuNotFound, VmError
from pytest_readonly_vm.host.once import OncePerKey
from pytest_readonly_vm.host.os_errors import explain, is_lack
from pytest_readonly_vm.host.tool import run_tool

_FAMILIES = {
    **dict.fromkeys(("x86_64", "i386"), "x86"),
    **dict.fromkeys(("aarch64", "arm"), "arm"),
    **dict.fromkeys(("riscv64", "riscv32"), "riscv"),
    **dict.fromkeys(("ppc64", "ppc"), "ppc"),
    **dict.fromkeys(("mips", "mipsel", "mips64", "mips64el"), "mips"),
    **dict.fromkeys(("sparc", "sparc64"), "sparc"),
}
"""By which emulators are packaged."""
_OF_DEBIAN = ("x86", "arm", "ppc", "mips", "sparc")
"""Those that have a package in each of its releases; others are in ``qemu-system-misc``, or come along with it."""
# Red Hat's distributions ship one emulator, outside PATH.
_ELSEWHERE = Path("/usr/libexec/qemu-kvm")
_PATIENCE = 20.0
_INHERITED = re.compile(r"/proc/self/fd/\d+: ?")
"""What qemu-img calls a file that it has from us."""


@dataclass(frozen=True, slots=True)
class Qemu:
    """A system emulator on this computer and what it says of itself."""

    path: Path
    version: str
    arch: str
    """Guest architecture in QEMU's words: ``x86_64``, ``aarch64``, ``riscv64``, …"""
    has_sandbox: bool

    def identity(self) -> str:
        """Tells this build from any other: real path, size and time of change."""
        return _identity(self.path)


_asked: OncePerKey[str, Qemu] = OncePerKey()
"""What was asked so far in this process, by identity: a run shows it at its head, and goes by it at the first start."""


def host_arch() -> str:
    """This computer's architecture in QEMU's words."""
    return of_computer(platform.machine())


def arch_of_emulator(name: str) -> str:
    """Of the guests of an emulator of that name or path, in QEMU's words; of a name without one, this computer's."""
    match = re.search(r"qemu-system-([a-z0-9_]+)", Path(name).name)
    return of_computer(match[1]) if match else host_arch()


def find_qemu(wanted: str | None, *, origin: str, arch: str | None = None) -> Qemu:
    """The emulator called `wanted` (a name on PATH or a path), or the one for `arch`, asked what it can do.

    :param arch: in QEMU's words; None for this computer's.
    :raises QemuNotFound: there is none, or it does not answer; the message names the package to install.
    :raises HostError: this computer does not let it be started.
    """
    arch = arch or host_arch()
    name = wanted or f"qemu-system-{arch}"
    found = shutil.which(name)
    if found is None and wanted is None and arch == host_arch() and os.access(_ELSEWHERE, os.X_OK):
        found = str(_ELSEWHERE)
    if found is None:
        asked = f" (from {origin})" if wanted else ""
        raise QemuNotFound(
            f"{name}{asked} is not installed: {_where_it_is(arch_of_emulator(name))}; or name another binary with "
            "--vm-qemu"
        )
    path = Path(found).resolve()
    try:
        return _asked.get(_identity(path), lambda: _ask(path, shown=f"{found} (from {origin})"))
    except OSError as error:
        kind = HostError if is_lack(error) else QemuNotFound
        raise kind(f"{path} cannot be started: {explain(error)}") from None


def _where_it_is(arch: str) -> str:
    """The packages to install for guests of this architecture."""
    family = _FAMILIES.get(arch, arch)
    debian = f"qemu-system-{family if family in _OF_DEBIAN else 'misc'}"
    if arch == host_arch():
        return f"on Debian and Ubuntu install {debian}, on Fedora qemu-kvm, on Arch qemu-base"
    elsewhere = f"qemu-system-{arch if arch == 'aarch64' else family}"
    return f"on Debian and Ubuntu install {debian}, on Fedora and Arch {elsewhere}"


def find_qemu_img(wanted: str | None) -> Path:
    """The qemu-img beside the emulator called `wanted`, or the one on PATH.

    :raises QemuNotFound: there is none.
    """
    emulator = shutil.which(wanted) if wanted else None
    beside = Path(emulator).resolve().with_name("qemu-img") if emulator else None
    found = str(beside) if beside and os.access(beside, os.X_OK) else shutil.which("qemu-img")
    if found is None:
        raise QemuNotFound("qemu-img is not installed: on Debian and Ubuntu install qemu-utils, on Fedora qemu-img")
    return Path(found)


def run_qemu_img(
    qemu_img: Path, arguments: Sequence[str], *, failure: str, timeout: float = 60.0, pass_fds: Sequence[int] = ()
) -> None:
    """Have qemu-img do something; at most so many seconds.

    :param failure: the beginning of the message, if it does not.
    :raises VmError: it does not; the message goes on with its own words.
    :raises OSError: it cannot be started.
    """
    done = run_tool([str(qemu_img), *arguments], timeout=timeout, pass_fds=pass_fds)
    if done.returncode != 0:
        words = _INHERITED.sub("", done.stderr.strip())
        raise VmError(f"{failure}: {words or 'qemu-img gave no answer'}")


def _identity(path: Path) -> str:
    found = path.stat()
    return f"{path}:{found.st_size}:{found.st_mtime_ns}"


def _ask(path: Path, *, shown: str) -> Qemu:
    done = run_tool([str(path), "-help"], timeout=_PATIENCE)  # which begins with what -version says
    if done.returncode is None:
        raise QemuNotFound(f"{path} -help gave no answer within {_PATIENCE:g} s")
    said = done.stdout + done.stderr
    match = re.search(r"emulator version (\S+)", said)
    if not match:
        raise QemuNotFound(f"{shown} is not a QEMU system emulator: it says {said.strip()[:80]!r}")
    return Qemu(
        path=path,
        version=match[1],
        arch=arch_of_emulator(path.name),
        has_sandbox=re.search(r"^-sandbox ", said, re.MULTILINE) is not None,
    )
