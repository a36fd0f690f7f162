"""Machines that differ from the default: another chipset, a second disk, a device that reports panics."""

import os

import pytest


@pytest.fixture(scope="session")
def vm_machine():
    return "q35"


@pytest.fixture(scope="session")
def data_disk(tmp_path_factory):
    path = tmp_path_factory.mktemp("disks") / "data.img"
    path.touch()
    os.truncate(path, 64 << 20)
    return path


@pytest.fixture(scope="session")
def vm_qemu_args(vm_qemu_args, data_disk):
    """What the command line says, and a second disk. It is protected like the first: snapshot=on is required."""
    return [
        *vm_qemu_args,
        "-drive",
        f"if=none,id=data,format=raw,file={data_disk},snapshot=on",
        "-device",
        "virtio-blk-pci,drive=data,serial=data",
        "-device",
        "pvpanic",
    ]
