"""Owns making and reading disk images with QEMU's own tools, for tests."""

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.conftest import READY
from tests.guests import bootsector

_PATIENCE = 60.0


def run(*argv: str | Path, allowed: tuple[int, ...] = (0,)) -> str:
    """Run a tool to its end and return what it prints."""
    done = subprocess.run(argv, capture_output=True, timeout=_PATIENCE, check=False)
    assert done.returncode in allowed, f"{argv}: {done.returncode}: {done.stderr.decode(errors='replace')}"
    return done.stdout.decode(errors="replace")


def writer_image(path: Path, format: str = "raw", *options: str) -> Path:
    """A disk in a format with the guest `writer`; `options` are those of ``qemu-img convert -o``."""
    if format == "raw" and not options:
        return bootsector.write_image(path, bootsector.writer(READY))
    raw = bootsector.write_image(path.with_name("source"), bootsector.writer(READY))
    choices = ("-o", ",".join(options)) if options else ()
    run("qemu-img", "convert", "-f", "raw", "-O", format, *choices, raw, path)
    raw.unlink()
    return path


def layer(path: Path, format: str, backing: str | Path, backing_format: str) -> Path:
    """An empty image on top of another, which is called `backing` in its header."""
    run("qemu-img", "create", "-q", "-f", format, "-F", backing_format, "-b", backing, path)
    return path


def info(path: Path) -> Any:
    """What ``qemu-img info`` knows of an image that nobody uses."""
    return json.loads(run("qemu-img", "info", "--output=json", path))


def data_sector(path: Path) -> bytes:
    """What an image has where the guest `writer` writes."""
    raw = path.with_name("read-back")
    run("qemu-img", "convert", "-O", "raw", path, raw)
    content = raw.read_bytes()[bootsector.DATA_SECTOR * bootsector.SECTOR_SIZE :][:8]
    raw.unlink()
    return content
