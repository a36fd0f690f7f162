"""Health gates in guests that are really sick: a kernel that complains, programs that crash, units that fail."""

import struct
from collections.abc import Iterator

import pytest

from pytest_readonly_vm import Lab, VirtualMachine, VmConfig, VmError
from pytest_readonly_vm.evidence.health import Mark, begin, complaints
from tests.accelerator import ACCEL
from tests.guests.debian import debian
from tests.guests.tiny_linux import tiny_linux
from tests.qemu.waiting import GENEROUS, eventually
from tests.templates import templates

ALL = ("kernel", "units", "cores", "journal:burning")
FAULT = "echo /mnt is lost >/sys/fs/ext4/vda/trigger_fs_error"  # as good as a broken disk
PANIC = "echo c >/proc/sysrq-trigger\n"  # typed at the console, as no channel has time to tell its end
WARNING = "echo '<4>WARNING: CPU: 0 PID: 1 at net/core/dev.c:1 dev_watchdog' >/dev/kmsg"


def crashing_program() -> bytes:
    """The smallest ELF file for x86-64 that writes where nothing is."""
    base, header = 0x400000, 64 + 56
    code = b"\x31\xc0\x89\x00"  # xor eax, eax; mov [rax], eax
    identity = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    elf = struct.pack("<16sHHIQQQIHHHHHH", identity, 2, 62, 1, base + header, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, header + len(code), header + len(code), 0x1000)
    return elf + segment + code


def marked(vm: VirtualMachine) -> Mark:
    mark = begin(vm)
    assert mark is not None
    return mark


def lines(vm: VirtualMachine, mark: Mark) -> list[str]:
    """The complaints, without the times."""
    return [line.partition("] ")[2] if line.startswith("[") else line for line in complaints(vm, mark)]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


def tiny() -> VmConfig:
    """A guest without systemd and journal."""
    guest = tiny_linux()
    files = {"image": guest.disk, "kernel": guest.kernel, "initrd": guest.initrd, "append": guest.append}
    allow = ("known and harmless",)
    known = {"accel": ACCEL, "memory": "128M", "boot_timeout": GENEROUS, "cache": templates()}
    return VmConfig().replace(**files, **known, health=ALL, health_allow=allow)


@pytest.fixture
def vm(lab: Lab) -> Iterator[VirtualMachine]:
    vm = lab.start(tiny(), name="tiny")
    yield vm
    vm.close()


def test_what_is_new_is_complained_of_and_nothing_else(vm: VirtualMachine) -> None:
    assert complaints(vm, marked(vm)) == []
    assert {one.kind for one in vm.history.entries() if one.what == "health gates"} == {"health"}
    vm.run(WARNING)
    mark = marked(vm)
    assert complaints(vm, mark) == []
    vm.run(FAULT)
    vm.write_bytes("/tmp/crash", crashing_program(), mode=0o755)
    vm.run("/tmp/crash", check=False)
    vm.run("echo '<6>the house is burning' >/dev/kmsg; echo 'BUG: known and harmless' >/dev/kmsg")
    kernel, cores, journal = lines(vm, mark)
    assert kernel.startswith("kernel: EXT4-fs error (device vda): ")
    assert "/mnt is lost" in kernel
    assert cores.startswith("cores: crash[")
    assert journal == "journal: the house is burning"


def test_no_memory(vm: VirtualMachine) -> None:
    mark = marked(vm)
    vm.run("tail /dev/zero", check=False)
    assert [line for line in lines(vm, mark) if line.startswith("kernel: Out of memory: Killed process")]


def test_after_a_reboot(vm: VirtualMachine) -> None:
    mark = marked(vm)
    vm.reboot(hard=True)
    assert complaints(vm, mark) == []
    vm.run(WARNING)
    assert len(complaints(vm, mark)) == 1


def test_a_panic_is_a_complaint_unless_it_was_waited_for(vm: VirtualMachine) -> None:
    mark = marked(vm)
    vm.console.send(PANIC)
    eventually(lambda: vm.trouble, "the panic")
    assert complaints(vm, mark) == ["kernel: the guest's kernel panicked: sysrq triggered crash"]
    vm.reset()
    mark = marked(vm)
    with vm.expect_panic():
        vm.console.send(PANIC)
    assert complaints(vm, mark) == []


def test_other_ends_are_told_by_others(vm: VirtualMachine) -> None:
    mark = marked(vm)
    vm.pause()
    assert complaints(vm, mark) == []
    vm.kill()
    assert complaints(vm, mark) == []
    assert begin(vm) is None


def test_a_guest_that_does_not_tell_is_a_complaint(vm: VirtualMachine) -> None:
    mark = marked(vm)
    vm.run("mkdir -p /tmp/empty; mount --bind /tmp/empty /proc/sys/kernel")
    [complaint] = complaints(vm, mark)
    assert complaint.startswith("the guest cannot be looked at: ")
    assert "/proc/sys/kernel/random/boot_id" in complaint
    vm.run("umount /proc/sys/kernel")
    vm.console.send("kill -STOP -1; echo sto''pped\n")  # all but the console's shell, which does that
    vm.console.expect("stopped")
    assert complaints(vm, mark, patience=1.0) == ["the guest cannot be looked at: it did not answer within 1 s"]


def test_a_guest_that_cannot_be_looked_at_is_an_error(lab: Lab) -> None:
    vm = lab.start(tiny().replace(channel="none", ready="console:tiny: ready"), name="mute")
    with pytest.raises(VmError, match=r"mute: the health gates cannot look into the guest: .*channel=none"):
        begin(vm)
    vm.close()


def test_debian(lab: Lab) -> None:
    debian_config = VmConfig().replace(image=debian(), accel=ACCEL, boot_timeout=300, start="clone", cache=templates())
    vm = lab.start(debian_config.replace(health=ALL, health_allow=["^known\\.service"]), name="debian")
    mark = marked(vm)
    assert complaints(vm, mark) == []
    # oneshot: a simple unit is active between its start and its end, however short.
    for unit, command in (("known", "false"), ("doomed", "false"), ("crash", "python3 -c 'import os; os.abort()'")):
        vm.run(f"systemd-run --unit={unit} --property=Type=oneshot {command}", check=False)
    vm.run(f"{WARNING}; logger -t app 'the house is burning'")
    found = lines(vm, mark)
    assert found == [
        "kernel: WARNING: CPU: 0 PID: 1 at net/core/dev.c:1 dev_watchdog",
        "units: doomed.service failed (exit-code)",
        "units: crash.service failed (signal)",
        "cores: systemd[1]: crash.service: Main process exited, code=killed, status=6/ABRT",
        *[line for line in found if line.startswith("journal: app[") and line.endswith("the house is burning")],
    ]
    assert len(found) == 5
    assert complaints(vm, marked(vm)) == []
