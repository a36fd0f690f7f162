"""Owns copies of the host's own UEFI firmware that a test may spoil, with descriptors that name them."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.host.firmware import FirmwareFiles, find_firmware
from pytest_readonly_vm.host.qemu_binary import find_qemu


def installed(*, machine: str = "pc", secure: bool = False) -> FirmwareFiles:
    """What this host has for x86 machines."""
    return find_firmware(find_qemu(VmConfig().qemu, origin="the tests"), machine=machine, secure=secure)


def copied(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Code and variables in this folder, which machines have from now on in the place of the host's."""
    found = installed()
    assert found.variables is not None
    paths = folder / "CODE.fd", folder / "VARS.fd"
    for source, target in zip((found.code, found.variables), paths, strict=True):
        if not target.exists():
            shutil.copyfile(source.path, target)
    code, variables = ({"filename": str(path), "format": "raw"} for path in paths)
    mapping = {"device": "flash", "executable": code, "nvram-template": variables}
    described(folder, monkeypatch, found.descriptor, mapping)
    return paths


def described(folder: Path, monkeypatch: pytest.MonkeyPatch, like: Path, mapping: Mapping[str, object]) -> None:
    """Have machines look for their firmware in a descriptor like another, but for how it is mapped."""
    config = folder / "config"
    descriptor = config / "qemu/firmware/00-first.json"
    descriptor.parent.mkdir(parents=True, exist_ok=True)
    descriptor.write_text(json.dumps(json.loads(like.read_text()) | {"mapping": mapping}))
    monkeypatch.setenv("XDG_CONFIG_HOME", os.fspath(config))
