"""Owns the host's tools that build guests: the package of each one, running it, and how its failure reads.

The only file here that starts processes.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

PACKAGE_OF = {
    "apt-cache": "apt",
    "apt-config": "apt",
    "apt-get": "apt",
    "debugfs": "e2fsprogs",
    "dpkg-deb": "dpkg",
    "grub-mkimage": "grub-common",
    "grub-mkrescue": "grub-common",
    "lz4": "lz4",
    "mformat": "mtools",
    "mke2fs": "e2fsprogs",
    "mkfs.btrfs": "btrfs-progs",
    "mmdebstrap": "mmdebstrap",
    "newuidmap": "uidmap",
    "objcopy": "binutils",
    "qemu-img": "qemu-utils",
    "qemu-io": "qemu-utils",
    "ssh-keygen": "openssh-client",
    "x86_64-linux-gnu-readelf": "binutils-x86-64-linux-gnu",
    "xorriso": "xorriso",
    "zstd": "zstd",
}
"""The package, in Debian and Ubuntu, that each tool is in; `packages.txt` lists what a host needs."""

_TAIL = 25


class BuildError(Exception):
    """A guest could not be built; the message ends with the last lines of the failing tool's output."""


def search_path() -> str:
    """``PATH`` with the directories that Debian leaves out for users other than root."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])


def require(*tools: str, files: Mapping[Path, str] | None = None) -> None:
    """Raise `BuildError` naming the packages to install unless every tool, and every file, is there.

    `files` maps a path to its package.
    """
    path = search_path()
    missing = {PACKAGE_OF[tool] for tool in tools if shutil.which(tool, path=path) is None}
    missing |= {package for file, package in (files or {}).items() if not file.exists()}
    if missing:
        packages = " ".join(sorted(missing))
        raise BuildError(
            f"Building this guest needs more tools; install them with: "
            f"apt-get install --no-install-recommends {packages}"
        )


def run(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> str:
    """Run a tool and return its standard output.

    `env` is added to an environment with the C locale and UTC. A failure is a `BuildError` with the end of
    what the tool printed. An interrupted tool gets the time to clean up after itself.
    """
    words = [str(word) for word in argv]
    environment = os.environ | {"PATH": search_path(), "LC_ALL": "C.UTF-8", "TZ": "UTC"} | dict(env or {})
    executable = shutil.which(words[0], path=environment["PATH"])
    if executable is None:
        require(words[0])
    with subprocess.Popen(
        words,
        executable=executable,
        env=environment,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as process:
        try:
            output, errors = process.communicate()
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        raise BuildError(_failure(words, process.returncode, [*output.splitlines(), *errors.splitlines()]))
    return output


def _failure(words: Sequence[str], status: int, lines: Iterable[str]) -> str:
    command = shlex.join(words)
    if len(command) > 200:
        command = f"{command[:200]}..."
    end = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    tail = [line for line in lines if line.strip()][-_TAIL:]
    return "\n  ".join([f"{words[0]} {end}: {command}", *tail])
