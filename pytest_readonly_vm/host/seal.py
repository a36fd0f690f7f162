"""Owns what makes the base unwritable from inside QEMU: a Landlock ruleset, and QEMU's seccomp filter as arguments.

Read-only descriptors keep the block layer from the base, but the block layer is not the only door: whoever holds the
monitor can aim ``pmemsave``, a chardev or ``migrate exec:`` at the file. Landlock closes all of them, for root and for
children too. See https://docs.kernel.org/userspace-api/landlock.html; the numbers are those of ``linux/landlock.h``.
"""

import ctypes
import errno
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_readonly_vm.errors import SealUnavailable

_SYS_CREATE_RULESET = 444
_SYS_ADD_RULE = 445
_SYS_RESTRICT_SELF = 446
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1
_PR_SET_NO_NEW_PRIVS = 38

_WRITE_FILE = 1 << 1
_CHANGES_A_FOLDER = (
    (1 << 4)  # REMOVE_DIR
    | (1 << 5)  # REMOVE_FILE
    | (1 << 7)  # MAKE_DIR
    | (1 << 8)  # MAKE_REG
    | (1 << 9)  # MAKE_SOCK
    | (1 << 10)  # MAKE_FIFO
    | (1 << 12)  # MAKE_SYM
)
_MAKE_DEVICES = (1 << 6) | (1 << 11)  # MAKE_CHAR, MAKE_BLOCK
_REFER = 1 << 13  # since ABI 2
_TRUNCATE = 1 << 14  # since ABI 3
_IOCTL_DEV = 1 << 15  # since ABI 5; a disk that is open for reading can be written by its ioctls, as root
_TCP = (1 << 0) | (1 << 1)  # BIND, CONNECT; since ABI 4
_SCOPED = (1 << 0) | (1 << 1)  # abstract sockets and signals; since ABI 6

# Devices that QEMU writes to do its work. A device that is not there needs no rule.
DEVICES = tuple(map(Path, ("/dev/null", "/dev/kvm", "/dev/net/tun", "/dev/vhost-net", "/dev/vhost-vsock")))

SANDBOX_ARGUMENT = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_prctl = _libc.prctl


def landlock_abi() -> int:
    """The kernel's Landlock version, or 0 where it has none or has it switched off."""
    version: int = _syscall(_SYS_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_CREATE_RULESET_VERSION))
    return max(version, 0)


def _rights(abi: int) -> int:
    """Those of files that such a kernel knows, of those that are taken away."""
    since = {2: _REFER, 3: _TRUNCATE, 5: _IOCTL_DEV}
    newer = sum(right for version, right in since.items() if abi >= version)
    return _WRITE_FILE | _CHANGES_A_FOLDER | _MAKE_DEVICES | newer


def _attributes(abi: int, *, tcp: bool) -> bytes:
    """``struct landlock_ruleset_attr``, as far as such a kernel knows it."""
    attributes = struct.pack("=QQQ", _rights(abi), 0 if tcp else _TCP, _SCOPED)
    return attributes[: 24 if abi >= 6 else 16 if abi >= 4 else 8]


@dataclass(frozen=True, slots=True)
class Seal:
    """How far QEMU is confined. Read-only descriptors for the base are not part of it: they are always there."""

    landlock: int
    """Version of Landlock that is used, 0 for none."""
    sandbox: bool

    def describe(self) -> str:
        landlock = f"Landlock {self.landlock}" if self.landlock else "no Landlock"
        return f"read-only descriptors, {landlock}, {'seccomp sandbox' if self.sandbox else 'no seccomp sandbox'}"


def choose_seal(wanted: str, *, has_sandbox: bool, origin: str) -> Seal:
    """The seal for ``auto``, ``require`` or ``off`` on this kernel and with a QEMU that has the sandbox or not.

    :raises SealUnavailable: ``require``, and a part is missing; the message says which.
    """
    if wanted == "off":
        return Seal(0, False)
    seal = Seal(landlock_abi(), has_sandbox)
    if wanted == "require" and not (seal.landlock and seal.sandbox):
        missing = "this kernel has no Landlock (5.13 or later, enabled at boot)"
        if seal.landlock:
            missing = "this QEMU was built without its seccomp sandbox"
        raise SealUnavailable(f"seal=require (from {origin}) cannot be had: {missing}")
    return seal


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What a process that reads everything may do beside that."""

    folder: Path | None
    """Below which it may write."""
    tcp: bool
    devices: Sequence[Path] = DEVICES
    """Which it may write as well."""


class Landlock:
    """A ruleset that keeps a process within its bounds.

    Where the kernel can do so, it neither signals others nor connects to their abstract sockets, and without `tcp` uses
    no TCP. Sockets with a path in the file system cannot be closed by Landlock.

    Built in the parent and applied in the child between fork and exec, where as little as possible may be done.
    """

    def __init__(self, bounds: Bounds) -> None:
        """:raises OSError: the kernel refuses the ruleset."""
        abi = landlock_abi()
        attributes = _attributes(abi, tcp=bounds.tcp)
        self.fd = _checked(
            _syscall(_SYS_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0))
        )
        try:
            if bounds.folder is not None:  # not device nodes: root could make one of the disk that the base is on
                self._allow(bounds.folder, _rights(abi) & ~(_MAKE_DEVICES | _IOCTL_DEV))
            for device in bounds.devices:
                if device.exists():
                    self._allow(device, _rights(abi) & (_WRITE_FILE | _TRUNCATE | _IOCTL_DEV))
        except BaseException:
            self.close()
            raise

    def _allow(self, path: Path, rights: int) -> None:
        target = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            rule = struct.pack("=Qi", rights, target)
            _checked(_syscall(_SYS_ADD_RULE, self.fd, ctypes.c_int(_RULE_PATH_BENEATH), rule, ctypes.c_uint32(0)))
        finally:
            os.close(target)

    def close(self) -> None:
        os.close(self.fd)


def restrict_self(ruleset: int) -> None:
    """Apply a ruleset to the calling thread and all that it becomes. Called in a child, between fork and exec.

    :raises OSError: the kernel refuses.
    """
    _checked(_prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _checked(_syscall(_SYS_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0)))


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"Landlock: {os.strerror(number)} ({errno.errorcode.get(number, number)})")
    return result
