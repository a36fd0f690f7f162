"""Owns Pythons from which something of this computer is kept, as it would be on another: a real kernel says no."""

import shlex
import sys
from pathlib import Path

from tests.mount_namespace import own_mounts

_NO_LANDLOCK = """
import ctypes, os, struct, sys

LOAD, IF_AT_LEAST, RETURN = 0x20, 0x35, 0x06  # https://docs.kernel.org/userspace-api/seccomp_filter.html
ALLOW, NO_SUCH_CALL = 0x7FFF0000, 0x00050000 | 38  # SECCOMP_RET_ERRNO with ENOSYS, as an older kernel answers
CALLS = range(444, 447)  # landlock_create_ruleset and its like, the same numbers on all architectures
steps = [
    (LOAD, 0, 0, 0),
    (IF_AT_LEAST, 0, 2, CALLS.start),
    (IF_AT_LEAST, 1, 0, CALLS.stop),
    (RETURN, 0, 0, NO_SUCH_CALL),
    (RETURN, 0, 0, ALLOW),
]
code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
program = ctypes.create_string_buffer(struct.pack("@HP", len(steps), ctypes.addressof(code)))
libc = ctypes.CDLL(None, use_errno=True)
for action in ((38, 1, 0, 0, 0), (22, 2, ctypes.c_void_p(ctypes.addressof(program)), 0, 0)):  # NO_NEW_PRIVS, SECCOMP
    if libc.prctl(*action):
        sys.exit(os.strerror(ctypes.get_errno()))
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""

_NO_KVM = 'mount --bind /dev/kvm /dev/kvm && mount -o remount,bind,nodev /dev/kvm; exec "$@"'


def python_without_landlock(folder: Path) -> Path:
    """A Python whose kernel knows of no Landlock."""
    return _program(folder / "python-without-landlock", sys.executable, _NO_LANDLOCK)


def python_without_kvm(folder: Path) -> Path:
    """A Python to which ``/dev/kvm``, if there is one, does not open."""
    words = [*own_mounts(), "sh", "-c", _NO_KVM, "sh", sys.executable]
    return _program(folder / "python-without-kvm", "/bin/sh", f'exec {shlex.join(words)} "$@"\n')


def _program(path: Path, interpreter: str, text: str) -> Path:
    path.write_text(f"#!{interpreter}\n{text}")
    path.chmod(0o755)
    return path
