"""Extra QEMU arguments may not undo what the plugin promises, nor contradict a setting."""

import shlex

import pytest

from pytest_readonly_vm.config.qemu_args import objection
from pytest_readonly_vm.config.settings import SETTINGS

DECIDED = {option: name for name, setting in SETTINGS.items() for option in setting.qemu_options}


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "-device virtio-balloon-pci",
        "-drive file=x.img,format=raw,snapshot=on",
        "-drive if=pflash,format=raw,readonly=on,file=OVMF_CODE.fd",
        "-drive if=none,id=empty",
        "-blockdev driver=raw,node-name=x,read-only=on,file.driver=file,file.filename=x",
        """-blockdev '{"driver": "null-co", "node-name": "n"}'""",
        """-blockdev '{"driver": "raw", "read-only": true, "file": {"driver": "file", "filename": "x"}}'""",
        "-cdrom seed.iso",
        "-append-something m",
    ],
)
def test_harmless_arguments_pass(arguments: str) -> None:
    assert objection(shlex.split(arguments), DECIDED) is None


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("-m 4G", "-m is decided by the setting 'memory'; use that instead"),
        ("--accel tcg", "--accel is decided by the setting 'accel'"),
        ("-enable-kvm", "decided by the setting 'accel'"),
        ("-device x -S", "-S cannot be used: the guest would never start"),
        ("-daemonize", "QEMU must stay a child"),
        ("-hda disk.img", "-hda would be written for good"),
        ("-drive file=x.img,format=raw", "-drive file=x.img,format=raw would be written for good; add snapshot=on"),
        ("-drive file=a,,snapshot=on,format=raw", "would be written for good"),
        ("-blockdev driver=raw,file.driver=file,file.filename=x", "add read-only=on"),
        ("""-blockdev '{"driver": "raw", "file": {"driver": "file", "filename": "x"}}'""", "add read-only=on"),
        ("-pflash vars.fd", "would be written for good"),
    ],
)
def test_others_are_refused_with_a_reason(arguments: str, complaint: str) -> None:
    reason = objection(shlex.split(arguments), DECIDED)
    assert reason is not None
    assert complaint in reason
