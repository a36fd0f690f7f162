"""What a power cut leaves of a disk: recorded while a guest writes, looked at in others, by the host, after a boot."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_readonly_vm import (
    CommandFailed,
    Cut,
    CutFailed,
    Disk,
    Lab,
    MountFailed,
    Recording,
    RecordingError,
    VirtualMachine,
    VmConfig,
    VmError,
)
from tests.accelerator import ACCEL
from tests.guests import tiny_linux
from tests.qemu.waiting import GENEROUS
from tests.templates import templates

FSCK = "/sbin/e2fsck"
COMMITS = 6
CLOSED = "synced"
"""What the guest writes with care, and says that it is there."""


DIRECT = """\
exec 3<>/dev/vda
sleep 9999 >/dev/null 2>&1 &
dd if=/dev/zero bs=4096 count=1 2>/dev/null | tr '\\0' x >/tmp/x
dd if=/tmp/x of=/dev/vda bs=4096 seek=12000 oflag=direct conv=notrunc 2>/dev/null
"""
"""Something is on the disk past all caches, and nothing flushes it: who closes the disk last would."""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


def config(**settings: object) -> VmConfig:
    guest = tiny_linux()
    files = {"image": guest.disk, "kernel": guest.kernel, "initrd": guest.initrd, "append": guest.append}
    common: dict[str, object] = {"accel": ACCEL, "memory": "128M", "boot_timeout": GENEROUS, "cache": templates()}
    return VmConfig().replace(**files, **common | settings)


@pytest.fixture(scope="module")
def shared(lab: Lab) -> VirtualMachine:
    return lab.start(config(start="clone"), name="writer")


@pytest.fixture
def vm(shared: VirtualMachine) -> VirtualMachine:
    shared.reset()
    return shared


@pytest.fixture(scope="module")
def log(shared: VirtualMachine) -> Recording:
    """Of files that were synced one after another, and of one that was not."""
    shared.run("sync")
    with shared.disk.record() as log:
        for number in range(COMMITS):
            shared.run(f"echo {number} > /mnt/{CLOSED}{number} && sync")
            log.mark(f"{CLOSED}{number}")
        shared.run("echo late > /mnt/late")
    return log


def files(cut: Cut) -> set[str]:
    with cut.mount() as mounted:
        found = mounted.vm.run(
            f"cd {mounted.path} && for one in *; do [ -d $one ] || echo $one $(cat $one); done"
        ).stdout
    return set(found.splitlines())


def test_each_flush_leaves_what_was_acknowledged_by_the_next(log: Recording) -> None:
    """The last of many is in each, and in none what comes after it: the cut loses as much as it may."""
    seen = 0
    for cut in log.cuts():
        found = files(cut)
        assert {f"{text} {text[-1]}" for text in cut.acknowledged} <= found, cut
        assert not any("late" in one for one in found)
        seen += len(cut.acknowledged)
        assert log.cut(cut.id).state == cut.state
    assert seen > COMMITS
    assert [mark.text for mark in log.marks] == [f"{CLOSED}{number}" for number in range(COMMITS)]


def test_what_the_host_finds_in_each_cut_is_a_file_system(log: Recording) -> None:
    """Of as many as a guest could not look at in the time: written, torn, and in any part."""
    for at, torn in (("flush", False), ("write", False), ("random", False)):
        for cut in log.cuts(at, limit=10, torn=torn):
            repaired = cut.check([FSCK, "-fp", cut.PATH])  # which recovers the journal, in the file that it was given
            assert repaired.exit_code in (0, 1), f"{cut}: {repaired.stdout}"
            assert cut.check([FSCK, "-fn", cut.PATH]).exit_code in (0, 4)


def test_first_failing_cut_is_found_and_told_by_one_line(log: Recording, tmp_path: Path) -> None:
    """A check that fails from when something is there, whatever is lost."""
    kept = tmp_path / "failing.qcow2"

    def little_is_there(cut: Cut) -> None:
        assert len(cut.acknowledged) < 4

    with pytest.raises(CutFailed, match=r"writer: disk0: write:\d+: assert") as caught:
        log.verify(little_is_there, at="write", keep=kept)
    [notes, where] = caught.value.__notes__
    assert notes.startswith(f"reproduced by: log.cut('{caught.value.minimal}')")
    assert str(kept) in where
    assert kept.stat().st_size
    with pytest.raises(AssertionError):
        little_is_there(log.cut(caught.value.minimal))
    assert log.first_failing(lambda cut: cut.check(["true", cut.PATH]), limit=2) is None


def test_fewest_lost_writes_are_found(log: Recording) -> None:
    """One of all that the worst cut loses."""
    worst = max(log.cuts(), key=lambda cut: cut.lost)
    assert worst.lost > 1
    last = max(worst.state.lost)
    found = log.first_failing(lambda cut: last not in cut.state.lost)
    assert found is not None
    assert found.minimal.state.lost == {last: 0}
    assert f"at sector {log.log.sector[last]}" in found.report("log")
    assert log.cut(found.minimal.id).state == found.minimal.state


def test_cut_boots(log: Recording) -> None:
    """From its kernel on, as another machine; the first is as it was."""
    with log.cut(f"flush:{log.flushes}").boot() as vm:
        assert vm.run(["cat", "/mnt/synced1"]).stdout == "1\n"
        assert vm.run(["test", "-e", "/mnt/late"], check=False).exit_code == 1
        assert vm.manner == "boot"
    assert vm.closed


def test_cut_is_exported(log: Recording, tmp_path: Path) -> None:
    cut = log.cut("flush:3")
    cut.export(tmp_path / "cut.raw", format="raw")
    digest = cut.check(["sha256sum", cut.PATH]).stdout.split()[0]
    other = log.cut("flush:0").check(["sha256sum", Cut.PATH, str(tmp_path / "cut.raw")]).stdout.split()
    assert [digest, digest] != other[::2]
    assert other[2] == digest
    with pytest.raises(VmError, match="exists"):
        cut.export(tmp_path / "cut.raw")


def test_what_cannot_be_asked_of_a_cut_is_refused(log: Recording) -> None:
    for id, why in (("flush:999", "flushes"), ("nonsense\x1b[2J", "none of the forms")):
        with pytest.raises(RecordingError, match=why):
            log.cut(id)
    with pytest.raises(RecordingError, match="at='never'"):
        log.cuts("never")
    cut = log.cut("flush:1")
    for command in ("e2fsck {disk}", ["e2fsck"]):
        with pytest.raises(VmError, match="a list of words"):
            cut.check(command)
    with pytest.raises(RecordingError, match="no partition 1"):
        cut.check([FSCK, cut.PATH], partition=1)
    with pytest.raises(MountFailed, match="partition 1"), cut.mount(partition=1):
        pass
    with pytest.raises(VmError, match="no-such-program"):
        cut.check(["no-such-program", cut.PATH])
    with pytest.raises(RecordingError, match="has ended"):
        log.mark("late")


def test_damaged_file_system_fails_the_check_and_not_the_run(vm: VirtualMachine) -> None:
    with vm.disk.record() as log:
        vm.run("umount /mnt; dd if=/dev/zero of=/dev/vda bs=64k count=4 conv=fsync")

    def can_be_mounted(cut: Cut) -> None:
        with cut.mount():
            pass

    found = log.first_failing(can_be_mounted, minimise=0)
    assert found is not None
    assert "no file system of it can be mounted" in found.why


# Marks.


def test_guest_marks_what_it_has_done_by_itself(vm: VirtualMachine) -> None:
    """On a place of its own, past the caches; what it acknowledges without care, the worst cut does not have."""
    vm.run("umount /mnt; mke2fs -F /dev/vda 60000 >/dev/null 2>&1; mount /dev/vda /mnt; sync")
    place = (64 << 20) - 4096
    with vm.disk.record(marks_at="end") as log:
        for number in range(3):
            sync = "" if number == 2 else "; sync"
            vm.run(
                f"echo {number} > /mnt/f{number}{sync}; printf 'f{number}\\n%4093s' '' > /tmp/mark;"
                f"dd if=/tmp/mark of=/dev/vda bs=4096 seek={place // 4096} oflag=direct conv=notrunc 2>/dev/null"
            )
    assert [mark.text for mark in log.marks] == ["f0", "f1", "f2"]
    missing = [
        cut.id for cut in log.cuts() if not set(cut.acknowledged) <= {one.split()[0] for one in files(cut) if one}
    ]
    assert missing == [f"flush:{log.flushes}"] == ["flush:2"]


# The plug.


def test_power_cut_leaves_what_was_flushed(vm: VirtualMachine) -> None:
    pid, before = vm.pid, vm.disk
    vm.run("sync")
    with vm.disk.record() as log:
        vm.run("echo 1 > /mnt/kept && sync && echo 2 > /mnt/lost")
        vm.power_cut()
        assert vm.run("ls /mnt").stdout.split() == ["kept", "lost+found"]
    assert vm.pid != pid
    assert vm.disk is before
    assert log.ended == "the machine's power was cut"
    assert files(log.cut(f"flush:{log.flushes}")) == {"kept 1"}
    assert [entry.what for entry in vm.history.entries() if "power" in entry.what]
    vm.reset()
    assert vm.run("ls /mnt").stdout.split() == ["lost+found"]


def test_power_cut_leaves_all_if_told_to(vm: VirtualMachine) -> None:
    """What was written with O_DIRECT and never flushed."""
    vm.run("umount /mnt")
    with vm.disk.record():
        vm.run(DIRECT)
        vm.power_cut(survives="all")
    assert vm.run("dd if=/dev/vda bs=4096 count=1 skip=12000 2>/dev/null").stdout == "x" * 4096


@pytest.fixture(scope="module")
def two(lab: Lab) -> VirtualMachine:
    """A machine with a file system on each of two disks."""
    vm = lab.start(config(start="clone", disks=(Disk("data", size="32M"),)), name="two disks")
    device = vm.disks["data"].guest_path()
    vm.run(f"mke2fs -F {device} >/dev/null 2>&1 && mkdir -p /data && mount {device} /data && sync")
    return vm


def test_each_of_two_disks_has_a_log_of_its_own(two: VirtualMachine) -> None:
    with two.disk.record() as first, two.disks["data"].record() as second:
        two.run("echo 1 > /mnt/a && echo 2 > /data/b && sync")
    assert "a 1" in files(first.cut(f"flush:{first.flushes}"))
    assert files(second.cut(f"flush:{second.flushes}")) == {"b 2"}


def test_failed_writes_are_in_no_cut(two: VirtualMachine) -> None:
    disk = two.disks["data"]
    with disk.error("write", may_be_unused=True), pytest.raises(RecordingError, match="begin the recording first"):
        disk.record()
    with disk.record() as log:
        two.run("echo 3 > /data/before && sync")
        with disk.error("write"):
            two.run("dd if=/dev/zero of=/data/failed bs=4k count=4 conv=fsync", check=False)
    assert "before 3" in files(log.cut(f"flush:{log.flushes}"))
    assert sum(log.log.count[entry] for entry in range(len(log.log))) < 32 * 8


def test_plug_is_pulled_on_a_disk_that_hangs_and_the_other_keeps_all(two: VirtualMachine) -> None:
    device = two.disks["data"].guest_path()
    two.run("umount /data")
    with two.disks["data"].record() as log, two.disks["data"].hang(may_be_unused=True):
        two.run(f"(dd if=/dev/zero of={device} bs=4096 count=1 oflag=direct conv=notrunc) >/dev/null 2>&1 &")
        two.run("echo late > /mnt/late; dd if=/mnt/late of=/mnt/last conv=fsync 2>/dev/null")
        two.power_cut()
    assert log.ended
    assert two.run("cat /mnt/last").stdout == "late\n"


def test_power_cut_wants_a_recording(vm: VirtualMachine) -> None:
    with pytest.raises(RecordingError, match=r"with vm\.disk\.record"):
        vm.power_cut()
    with vm.disk.record(), pytest.raises(RecordingError, match="none of flushed, random, all"):
        vm.power_cut(survives="most")
    assert vm.run("true")


# What else is done meanwhile.


def test_recording_goes_on_over_a_checkpoint_and_a_fork(vm: VirtualMachine) -> None:
    with vm.disk.record() as log:
        vm.run("echo 1 > /mnt/before && sync")
        checkpoint = vm.checkpoint()
        vm.run("echo 2 > /mnt/after && sync")
        with vm.fork() as (fork,):
            assert fork.disk.recording is None
            fork.run("echo 3 > /mnt/of-the-fork && sync")
        vm.run("echo 4 > /mnt/last && sync")
    assert files(log.cut(f"flush:{log.flushes}")) == {"before 1", "after 2", "last 4"}
    checkpoint.close()


@pytest.mark.parametrize("back", ["restore", "reset"])
def test_recording_ends_with_a_sentence_where_the_machine_goes_back(vm: VirtualMachine, back: str) -> None:
    checkpoint = vm.checkpoint()
    log = vm.disk.record()
    vm.run("echo 1 > /mnt/before && sync")
    getattr(vm, back)()
    vm.run("echo 2 > /mnt/after && sync")
    with pytest.raises(RecordingError, match="went back to another time"):
        log.end()
    assert {"before 1"} == files(log.cut(f"flush:{log.flushes}"))
    with vm.disk.record() as again:
        vm.run("echo 3 > /mnt/again && sync")
    assert {"after 2", "again 3"} == files(again.cut(f"flush:{again.flushes}"))
    with contextlib.suppress(VmError):
        checkpoint.close()


def test_machine_that_was_killed_leaves_its_log(vm: VirtualMachine) -> None:
    with vm.disk.record() as log:
        vm.run("echo 1 > /mnt/before && sync; echo 2 > /mnt/lost")
        vm.kill()
    assert log.ended == "the machine has ended"
    assert {"before 1"} == files(log.cut(f"flush:{log.flushes}"))


def test_disk_has_one_recording_at_a_time(vm: VirtualMachine) -> None:
    with vm.disk.record() as log:
        with pytest.raises(RecordingError, match="recorded already"):
            vm.disk.record()
        with pytest.raises(RecordingError, match="still being recorded"):
            log.cuts()
        with pytest.raises(RecordingError, match="still being recorded"):
            log.cut("flush:0")
    for options, why in (({"marks_at": 100}, "sector's border"), ({"limit": 5}, "less than 1 MiB")):
        with pytest.raises(RecordingError, match=why):
            vm.disk.record(**options)


def test_log_that_grows_too_large_ends_the_recording_and_not_the_guest(vm: VirtualMachine) -> None:
    log = vm.disk.record(limit=2 << 20)
    vm.run("dd if=/dev/urandom of=/mnt/big bs=64k count=100 conv=fsync 2>/dev/null")
    vm.run("dd if=/dev/urandom of=/mnt/big bs=64k count=100 conv=fsync 2>/dev/null")
    with pytest.raises(RecordingError, match="2 MiB"):
        log.mark("late")
    with pytest.raises(RecordingError, match="its log has reached 2 MiB"):
        log.end()
    assert vm.run("echo 1 > /mnt/after && sync && cat /mnt/after").stdout == "1\n"
    assert log.cut("flush:0").check([FSCK, "-fn", Cut.PATH])


def test_guest_that_never_flushes_keeps_nothing(vm: VirtualMachine) -> None:
    vm.run("umount /mnt")
    with vm.disk.record() as log:
        vm.run(DIRECT)
    [cut] = log.cuts("flush")
    assert (log.flushes, cut.lost > 0) == (0, True)
    read = ["dd", f"if={cut.PATH}", "bs=4096", "count=1", "skip=12000"]
    assert cut.check(read).stdout == "\0" * 4096
    assert log.cut(f"write:{log.writes}").check(read).stdout == "x" * 4096


def test_command_that_fails_in_the_guest_is_told_as_it_is(vm: VirtualMachine) -> None:
    with pytest.raises(CommandFailed), vm.disk.record():
        vm.run("false")
    assert vm.disk.recording is None


def test_nothing_is_left_of_recordings(lab: Lab) -> None:
    vm = lab.start(config(start="clone"), name="soon gone")
    descriptors = len([*Path("/proc/self/fd").iterdir()])
    folders = set(vm.folder.parent.iterdir())
    for _ in range(2):
        with vm.disk.record() as log:
            vm.run("echo 1 > /mnt/one && sync")
        cut = log.cut(f"flush:{log.flushes}")
        assert files(cut) == {"one 1"}
        assert cut.check(["true", Cut.PATH])
        del log, cut
        assert not list(vm.disk.end_test(failed=False))
    assert set(vm.folder.parent.iterdir()) <= folders
    # Overlays that were frozen stay with the machine: one for each recording.
    assert len([*Path("/proc/self/fd").iterdir()]) <= descriptors + 2
    vm.close()
