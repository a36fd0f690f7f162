"""What may be said of a machine's further disks, and what is said of the rest."""

from pathlib import Path

import pytest

from pytest_readonly_vm import ConfigurationError, Disk, VmConfig
from pytest_readonly_vm.config.setting import Given
from pytest_readonly_vm.config.settings import parse
from pytest_readonly_vm.qemu.board import refuse_what_it_has_not


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("data:2G", Disk("data", size=2 << 30)),
        ("data:64MiB,interface=scsi,serial=S-1", Disk("data", size="64M", interface="scsi", serial="S-1")),
        ("log:/images/a,b.raw,format=raw", Disk("log", image=Path("/images/a,b.raw"), format="raw")),
        ("log:below/it.qcow2", Disk("log", image=Path("/project/below/it.qcow2"))),
    ],
)
def test_a_text_is_a_disk(written: str, meant: Disk) -> None:
    assert parse("disks", Given(written, "--vm-disks", Path("/project"))) == (meant,)
    assert parse("disks", Given([str(meant)], "again")) == (meant,)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("data", "'data' is not of the form NAME:SIZE or NAME:IMAGE"),
        ("data:", "is not of the form"),
        ("1st:2G", "the disk '1st': its name is not a letter with"),
        ("disk0:2G", "the disk 'disk0': this is what the first one is called"),
        ("a" * 21 + ":2G", "its name is not"),
        ("data:2G,size=3G", "size is none of format, interface, serial"),
        ("data:2G,interfase=scsi", "did you mean 'interface'"),
        ("data:2G,interface=floppy", "'floppy' is not one of virtio, scsi"),
        ("data:2G,serial=a/b", "'a/b' is no serial number"),
        ("data:2G,format=raw", "format is that of an image, and it has none"),
        (["data:2G", "data:3G"], "two disks are called 'data'"),
        (["data:2G", "more:3G,serial=data"], "two disks have the serial number 'data'"),
        ("data:2G,serial=disk0", "two disks have the serial number 'disk0'"),
        (7, "7 is not a text"),
        ("data:s3://bucket/x", "s3:// is none of https://"),
    ],
)
def test_what_cannot_be_a_disk_is_refused_in_a_sentence(wrong: object, why: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"^--vm-disks: disks: .*{why}"):
        parse("disks", Given(wrong, "--vm-disks"))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, "either a size, if it is blank, or an image"),
        ({"size": "1G", "image": "x"}, "either a size, if it is blank, or an image"),
        ({"size": (1 << 20) + 1}, "1048577 bytes are not whole sectors of 512"),
        ({"size": "some"}, "'some' is not a size"),
        ({"size": 512}, "512 bytes, less than the smallest"),
    ],
)
def test_one_that_is_made_wrong_says_so_where_it_is_made(changes: dict[str, object], why: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^the disk 'data': .*{why}"):
        Disk("data", **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arch", "settings", "why"),
    [
        ("x86_64", {"disks": [f"d{number}:1M,interface=usb" for number in range(5)]}, "room for 4 disks .* usb"),
        ("x86_64", {"disks": [f"d{number}:1M,interface=ide" for number in range(4)]}, "room for 3 disks .* ide"),
        ("x86_64", {"disks": [f"d{number}:1M,interface=sata" for number in range(7)]}, "room for 6 disks .* sata"),
        ("s390x", {"disks": "data:1M,interface=nvme"}, "disks: the interface nvme is none of those .*: virtio, scsi"),
        ("aarch64", {"disks": "data:1M", "disk_interface": "ide"}, "disks: the interface ide is none of those"),
    ],
)
def test_more_than_a_machine_has_room_for_is_refused(arch: str, settings: dict[str, object], why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        refuse_what_it_has_not(VmConfig().replace(**settings), arch)
