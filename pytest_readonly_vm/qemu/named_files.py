"""Owns which files of this computer shape a guest beside its images: those of settings, and what is named by extra
arguments and by the options of a machine type, wherever in them, with what those files name in turn."""

import contextlib
import json
import os
import re
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pytest_readonly_vm.config.setting import Part
from pytest_readonly_vm.config.settings import FILES, VmConfig, settings_in

_FOLDER_KEYS = ("path", "file", "filename")
"""Behind these a word without a slash is a folder as well; another may be called like one by chance."""
_JSON = re.compile(r"json:(?=\{)")
_PROTOCOL = re.compile(r"(?!file:)[A-Za-z0-9+.-]+:")
_HEAD = 80
_DATA_FILE = 1 << 2  # of qcow2's incompatible features, docs/interop/qcow2.txt
_MANY_FILES = (b"QED\0", b"KDMV", b"COWD", b"# Disk DescriptorFile")
"""How formats begin whose disks can be in several files, and of which nothing more is known here."""
_DEEPEST = 64


def named_files(config: VmConfig) -> list[Path]:
    """Those files, each once. A relative path is, as to QEMU, one from the current folder."""
    files = [getattr(config, name) for name in settings_in(Part.KEY) if name in FILES]
    return list(dict.fromkeys([*filter(None, files), *_files(config)[0]]))


def why_untold(config: VmConfig) -> str | None:
    """What is named of which nobody can say cheaply whether it is the same another day, as the end of a sentence."""
    return _files(config)[1]


def _files(config: VmConfig) -> tuple[list[Path], str | None]:
    found: list[Path] = []
    untold = None
    for text, key in _texts([*config.qemu_args, *([config.machine] if config.machine else ())]):
        with contextlib.suppress(OSError, ValueError):  # it is too long for a path, or has a zero in it
            path = Path(text)
            if path.is_file():
                chain, reason = _chain(path)
                found += chain
                untold = untold or reason
            elif path.is_block_device() or (path.is_dir() and ("/" in text or key in _FOLDER_KEYS)):
                untold = untold or f"{path}: what is in it may be something else another day"
    return found, untold


def _texts(arguments: Iterable[str]) -> Iterator[tuple[str, str]]:
    """What may be a path in arguments, each with the key before it."""
    option = ""
    for argument in arguments:
        yield argument, "path" if option == "-L" else ""
        option = argument
        for text, key in (*_of_json(argument), *_of_pairs(argument)):
            pieces = text.split(":")  # as behind the name of a protocol: fat:rw:FOLDER
            for number, piece in enumerate(pieces):
                yield piece, key
                yield ":".join(pieces[number:]), key


def _of_pairs(argument: str) -> Iterator[tuple[str, str]]:
    for pair in argument.replace(",,", "\0").split(","):
        key, sign, value = pair.replace("\0", ",").partition("=")
        yield (value, key.rpartition(".")[2]) if sign else (key, "")


def _of_json(argument: str) -> Iterator[tuple[str, str]]:
    text = argument.replace(",,", ",")
    mark = _JSON.search(text)
    begin = 0 if argument.startswith("{") else mark.end() if mark else None
    if begin is None:
        return
    with contextlib.suppress(ValueError, RecursionError):  # QEMU will tell
        waiting: list[tuple[Any, str]] = [(json.JSONDecoder().raw_decode(text[begin:])[0], "")]
        while waiting:
            thing, key = waiting.pop()
            if isinstance(thing, dict):
                waiting += [(value, name) for name, value in thing.items()]
            elif isinstance(thing, list):
                waiting += [(value, key) for value in thing]
            elif isinstance(thing, str):
                yield thing, key


def _chain(path: Path) -> tuple[list[Path], str | None]:
    """A file, and those below it if it is a disk; and what there is of which nothing can be said."""
    found = [path]
    while len(found) < _DEEPEST:
        name, reason = _below(found[-1])
        if name is None or reason:
            return found, reason
        if not (below := found[-1].parent / name).is_file():
            return found, f"{below}, below {found[-1]}, which is no file"
        found.append(below)
    return found, f"{path}, which has too many files below it"


def _below(path: Path) -> tuple[str | None, str | None]:
    """The name of the file below one in qcow2; and why nothing can be said."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
        if head.startswith(_MANY_FILES):
            return None, f"{path}, whose format may have further files"
        if not head.startswith(b"QFI\xfb") or len(head) < _HEAD:
            return None, None
        version, offset, length = struct.unpack_from(">IQI", head, 4)
        if version >= 3 and struct.unpack_from(">Q", head, 72)[0] & _DATA_FILE:
            return None, f"{path}, which has its content in another file"
        if not offset or not 0 < length < 1024:
            return None, None
        file.seek(offset)
        name = os.fsdecode(file.read(length))
    if _PROTOCOL.match(name):
        return None, f"{name}, below {path}"
    return name.removeprefix("file:"), None
