"""Owns the command line ``python -m tests.guests``: builds what is missing and says where it is.

Paths go to standard output, one a line: of tiny and alpine the kernel, the initramfs and the disk, of
servers and databases, which are tiny with more in it, the initramfs, of cd, debian and those by UEFI the images,
of foreign, tiny ones for other architectures, the kernel and the initramfs of each.
What is being done goes to standard error.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.guests import BuildError, archive, cache, debian, tiny_linux, tiny_with_databases, tiny_with_servers
from tests.guests.alpine import alpine
from tests.guests.architectures import ARCHITECTURES
from tests.guests.debian_uefi import debian_uefi
from tests.guests.tiny_cd import tiny_cd
from tests.guests.tiny_uefi import tiny_uefi


def _tiny_paths() -> list[Path]:
    guest = tiny_linux()
    return [guest.kernel, guest.initrd, guest.disk]


def _servers_paths() -> list[Path]:
    return [tiny_with_servers().initrd]


def _databases_paths() -> list[Path]:
    return [tiny_with_databases().initrd]


def _cd_paths() -> list[Path]:
    return [tiny_cd()]


def _foreign_paths() -> list[Path]:
    if archive.host_release()[0] != "debian":
        return []  # whose archive has them
    guests = [tiny_linux(arch) for arch in ARCHITECTURES if arch != "x86_64"]
    return [*(path for guest in guests for path in (guest.kernel, guest.initrd)), tiny_with_servers("aarch64").initrd]


def _debian_paths() -> list[Path]:
    return [debian()]


def _debian_uefi_paths() -> list[Path]:
    guests = debian_uefi()
    return [guests.lvm, guests.shim]


def _alpine_paths() -> list[Path]:
    guest = alpine()
    return [guest.kernel, guest.initrd, guest.disk]


_GUESTS: dict[str, Callable[[], list[Path]]] = {
    "tiny": _tiny_paths,
    "servers": _servers_paths,
    "databases": _databases_paths,
    "cd": _cd_paths,
    "foreign": _foreign_paths,
    "tiny-uefi": lambda: [tiny_uefi().disk],
    "debian": _debian_paths,
    "debian-uefi": _debian_uefi_paths,
    "alpine": _alpine_paths,
}


class _Elapsed(logging.Formatter):
    """Messages behind the seconds since the command started."""

    def __init__(self) -> None:
        super().__init__()
        self._start = time.time()

    def format(self, record: logging.LogRecord) -> str:
        return f"[{record.created - self._start:6.1f} s] {record.getMessage()}"


def main(arguments: list[str] | None = None) -> int:
    """Build, print, and return the exit status: 0, or 1 when a guest could not be built."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.guests",
        description="Build the guests that the tests boot, unless they are there, and print their paths.",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help=f"keep guests here (default: ${cache.VARIABLE}, else below the user's cache directory)",
    )
    parser.add_argument("guest", choices=[*_GUESTS, "all"])
    options = parser.parse_args(arguments)
    if options.output is not None:
        os.environ[cache.VARIABLE] = str(options.output)

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Elapsed())
    logging.basicConfig(level=logging.INFO, handlers=[handler])

    wanted = list(_GUESTS) if options.guest == "all" else [options.guest]
    for name in wanted:
        try:
            paths = _GUESTS[name]()
        except BuildError as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 1
        print(*paths, sep="\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
