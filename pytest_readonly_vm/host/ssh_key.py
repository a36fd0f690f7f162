"""Owns the making of an SSH key for a run, by the system's `ssh-keygen`."""

import shutil
from pathlib import Path

from pytest_readonly_vm.errors import HostError
from pytest_readonly_vm.host.tool import run_tool

MISSING = "{} is not installed on this computer: package openssh-client"
_PATIENCE = 30.0


def make_key(folder: Path) -> Path:
    """Make an ed25519 key without a passphrase in a folder; the public one is beside it, with ``.pub`` at its end.

    :raises HostError: `ssh-keygen` is missing or fails.
    """
    if (tool := shutil.which("ssh-keygen")) is None:
        raise HostError(MISSING.format("ssh-keygen"))
    path = folder / "key"
    argv = [tool, "-q", "-t", "ed25519", "-N", "", "-C", "pytest-readonly-vm", "-f", str(path)]
    done = run_tool(argv, timeout=_PATIENCE)
    if done.returncode != 0:
        raise HostError(f"no SSH key could be made: {done.stderr.strip() or 'ssh-keygen gave no answer'}")
    return path


def public_key(path: Path) -> str:
    """The line for an ``authorized_keys`` that lets the key at `path` in."""
    return path.with_name(f"{path.name}.pub").read_text().strip()
