"""What a machine has changed of its files is told from outside and by the guest, and both tell the same."""

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from pytest_readonly_vm import GuestDied, Lab, VirtualMachine, VmConfig, VmError
from tests.accelerator import ACCEL
from tests.guests.tiny_linux import tiny_linux
from tests.qemu.channels import machine
from tests.templates import templates


class Operation(NamedTuple):
    """What is done in a folder of its own, and what is to be told of it, by path, in words."""

    do: str
    changes: dict[str, str]
    before: str = ":"
    """What was there."""


OPERATIONS = {
    "create": Operation("echo one >new", {"new": "made"}),
    "write": Operation("echo two >file", {"file": "changed: content"}, "echo one >file"),
    "append": Operation("echo two >>file", {"file": "changed: content (4 → 8 bytes)"}, "echo one >file"),
    "truncate": Operation(": >file", {"file": "changed: content (4 → 0 bytes)"}, "echo one >file"),
    "write the same": Operation("echo one >file", {"file": "touched"}, "echo one >file"),
    "write nothing": Operation("cat file; ls", {}, "echo one >file"),
    "chmod": Operation("chmod 4711 file", {"file": "changed: mode 0644 → 4711"}, "echo one >file; chmod 644 file"),
    "chmod of a folder": Operation("chmod 700 d", {"d": "changed: mode 0755 → 0700"}, "mkdir -m 755 d"),
    "chown": Operation("chown 70000:7 file", {"file": "changed: owner 0:0 → 70000:7"}, "echo one >file"),
    "rename over": Operation("echo two >other; mv other file", {"file": "changed: content"}, "echo one >file"),
    "rename over the same": Operation("cp file other; mv other file", {"file": "touched"}, "echo one >file"),
    "unlink and make again": Operation("rm file; echo one >file", {"file": "touched"}, "echo one >file"),
    "rename": Operation("mv file other", {"file": "removed", "other": "made"}, "echo one >file"),
    "exchange": Operation(
        "mv a c; mv b a; mv c b",
        {"a": "changed: content (2 → 4 bytes)", "b": "changed: content (4 → 2 bytes)"},
        "echo 1 >a; echo two >b",
    ),
    "hard link": Operation("ln file other", {"file": "changed: links 1 → 2", "other": "made"}, "echo one >file"),
    "unlink of one name": Operation("rm b", {"a": "changed: links 2 → 1", "b": "removed"}, "echo one >a; ln a b"),
    "retarget": Operation("ln -sfn elsewhere link", {"link": "changed: target"}, "ln -s somewhere link"),
    "retarget a long one": Operation(
        f"ln -sfn {'y' * 200} link", {"link": "changed: target"}, f"ln -s {'x' * 200} link"
    ),
    "other type": Operation(
        "rm -r d; echo one >d",
        {"d": "changed: directory → file, mode 0755 → 0644", "d/inner": "removed"},
        "mkdir d; echo one >d/inner",
    ),
    "device": Operation("rm n; mknod n c 1 5", {"n": "changed: device"}, "mknod n c 1 3"),
    "fifo": Operation("mkfifo pipe", {"pipe": "made (fifo)"}),
    "touch the time of access": Operation("touch -a file", {"file": "touched"}, "echo one >file"),
    "read": Operation("cat file", {}, "echo one >file; touch -d '2001-01-01 00:00' file"),
    "rename a folder": Operation(
        "mv d e",
        {
            "d": "removed (directory)",
            "e": "made (directory)",
            **{f"d/{number}": "removed" for number in range(30)},
            **{f"e/{number}": "made" for number in range(30)},
        },
        "mkdir d; for n in $(seq 0 29); do echo $n >d/$n; done",
    ),
    "a large folder": Operation(
        "rm big/long-name-7; mv big/long-name-8 big/other-8; echo >big/new",
        {"big/long-name-7": "removed", "big/long-name-8": "removed", "big/other-8": "made", "big/new": "made"},
        "mkdir big; cd big; for n in $(seq 1500); do : >long-name-$n; done",
    ),
    "deleted but open": Operation("sleep 1000 <file >/dev/null 2>&1 & rm file", {"file": "removed"}, "echo one >file"),
    "made, deleted, open": Operation(
        "{ echo one; exec sleep 1000; } >file 2>&1 & while [ ! -s file ]; do :; done; rm file", {}
    ),
    "odd names": Operation(
        """echo >"$(printf 'a\\nb')"; echo >"$(printf 'c\\377d')"; mkdir "$(printf '\\033[31m')" """,
        {"a\nb": "made", "c\udcffd": "made", "\x1b[31m": "made (directory)"},
    ),
    "a hole": Operation(
        "dd if=/dev/zero of=file bs=1024 seek=64 count=1 conv=notrunc", {"file": "touched"}, "truncate -s 10M file"
    ),
    "fill a hole": Operation(
        "echo x | dd of=file bs=1024 seek=4000 conv=notrunc", {"file": "changed: content"}, "truncate -s 10M file"
    ),
    "a fragmented file": Operation(
        "echo x | dd of=file bs=1024 seek=160 conv=notrunc",
        {"file": "changed: content"},
        "for n in $(seq 0 2 80); do dd if=/bin/sh of=file bs=4096 seek=$n count=1 conv=notrunc; done",
    ),
}


PLACES = {"/mnt/t": "outside", "/root/t": "inside"}
"""Of the tiny guest a folder on its disk, and one of what it has unpacked into memory."""


def script(place: str, part: str) -> str:
    """All operations, or what is before them, each in a folder of its own and in a shell of its own."""
    folders = [f"mkdir -p {place}/{number}; cd {place}/{number}" for number in range(len(OPERATIONS))]
    scripts = [getattr(operation, part) for operation in OPERATIONS.values()]
    return "umask 022\n" + "".join(f"(\n{one}\n{two}\n)\n" for one, two in zip(folders, scripts, strict=True))


Told = dict[str, dict[str, dict[str, str]]]
"""What is told, in words, by the place, the operation, and the path in the folder of that."""


def told(vm: VirtualMachine, *places: str) -> Told:
    vm.run("".join(script(place, "before") for place in places))
    names = list(OPERATIONS)
    words: Told = {place: {name: {} for name in names} for place in places}
    with vm.checkpoint() as start:
        vm.run("".join(script(place, "do") for place in places))
        found = vm.diff(since=start)
        for change in (*found, *found.touched):
            for place in places:
                if change.path.startswith(f"{place}/"):
                    number, _, path = change.path.removeprefix(f"{place}/").partition("/")
                    words[place][names[int(number)]][path] = change.in_words
    return words


def direct(**settings: object) -> VmConfig:
    guest = tiny_linux()
    known = {"image": guest.disk, "kernel": guest.kernel, "initrd": guest.initrd, "append": guest.append}
    config = VmConfig().replace(accel=ACCEL, start="clone", memory="256M", cache=templates(), **known)
    return config.replace(**settings)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


@pytest.fixture(scope="module")
def tiny(lab: Lab) -> VirtualMachine:
    return lab.start(direct(), name="tiny")


@pytest.fixture
def vm(tiny: VirtualMachine) -> VirtualMachine:
    tiny.reset()
    return tiny


@pytest.fixture(scope="module")
def debian(lab: Lab) -> VirtualMachine:
    return machine(lab, "debian-agent-clone")


@pytest.fixture(scope="module")
def told_of_tiny(tiny: VirtualMachine) -> Told:
    return told(tiny, *PLACES)


@pytest.fixture(scope="module")
def told_of_debian(debian: VirtualMachine) -> Told:
    return told(debian, "/srv/t")


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("place", PLACES)
def test_what_was_done_is_told(name: str, place: str, told_of_tiny: Told) -> None:
    assert told_of_tiny[place][name] == OPERATIONS[name].changes


@pytest.mark.parametrize("name", OPERATIONS)
def test_what_was_done_is_told_of_a_guest_that_is_busy_with_its_disk(name: str, told_of_debian: Told) -> None:
    assert told_of_debian["/srv/t"][name] == OPERATIONS[name].changes


def test_nothing_is_told_of_what_only_a_file_system_in_memory_has(debian: VirtualMachine) -> None:
    debian.run("echo one >/dev/shm/file; mount -t tmpfs none /srv; echo two >/srv/hidden")
    found = debian.diff()
    assert found.looked_at == {"/": "outside"}
    assert not found.inside("/dev", "/srv")
    debian.run("umount /srv")


def test_a_guest_that_stands_still_is_read_as_after_a_loss_of_power(debian: VirtualMachine) -> None:
    with debian.checkpoint() as start:
        debian.run("echo one >/srv/written; sync; echo two >/srv/in-memory")
        debian.pause()
        found = debian.diff(since=start)
        assert found.inside("/srv").made == ("/srv/written",)
        assert "could not be asked to write what it had in memory, as after a loss of power" in found.remark
        assert found.remark in str(found)
        assert not debian.qmp.execute("query-status")["running"]
        debian.resume()
        assert debian.diff(since=start).inside("/srv").made == ("/srv/in-memory", "/srv/written")
        assert debian.qmp.execute("query-status")["running"]


def test_it_begins_with_how_the_test_got_it_and_anew_with_a_reset(vm: VirtualMachine) -> None:
    assert not vm.diff()
    vm.run("echo one >/mnt/file; echo two >/root/file")
    assert vm.diff().made == ("/mnt/file", "/root/file")
    with vm.checkpoint() as point:
        vm.run("rm /mnt/file")
        assert vm.diff(since=point).removed == ("/mnt/file",)
        assert vm.diff().made == ("/root/file",)
        vm.restore(point)
        assert not vm.diff(since=point)
        assert vm.diff().made == ("/mnt/file", "/root/file")
        before = vm.diff(since=point)
    vm.reset()
    assert not vm.diff()
    with pytest.raises(VmError, match="the checkpoint is closed"):
        vm.diff(since=point)
    assert before.looked_at == {"/": "inside", "/mnt": "outside"}


@pytest.mark.parametrize("folder", ["/mnt", "/root"])
def test_content_before_and_after(vm: VirtualMachine, folder: str) -> None:
    vm.run(f"cd {folder}; echo one >file; ln -s here link; mkdir folder; dd if=/dev/zero of=huge bs=1M count=2")
    point = vm.checkpoint()
    vm.run(f"cd {folder}; echo three >file; ln -sfn there link; chmod 700 folder; echo new >new; echo >>huge")
    found = vm.diff(since=point)
    file, link, new = found[f"{folder}/file"], found[f"{folder}/link"], found[f"{folder}/new"]
    assert (file.before(), file.after()) == (b"one\n", b"three\n")
    assert (link.before(), link.after()) == (b"here", b"there")
    assert new.after() == b"new\n"
    assert found[f"{folder}/huge"].before() == bytes(2 << 20)
    for read, why in (
        (new.before, "new had no content before"),
        (found[f"{folder}/folder"].before, "folder had no content before"),
        (found[f"{folder}/huge"].after, "it has 2097153 bytes"),
    ):
        with pytest.raises(VmError, match=why):
            read()
    vm.run(f"echo later >{folder}/file")
    if folder == "/mnt":
        assert file.after() == b"three\n"
    point.close()
    with pytest.raises(VmError, match="is not known any more: the checkpoint or the machine has been closed"):
        file.before()


def test_a_further_disk_is_looked_at_and_files_with_names_are_read(lab: Lab) -> None:
    vm = lab.start(direct(disks=["data:16M"], snapshot="overlay"), name="two disks")
    path = vm.disks["data"].guest_path()
    vm.run(f"mke2fs {path}; mkdir /data; mount -t ext4 {path} /data; echo one >/data/file")
    with vm.checkpoint() as point:
        vm.run("echo two >>/data/file; echo one >/mnt/file")
        found = vm.diff(since=point)
    assert found.looked_at == {"/": "inside", "/mnt": "outside", "/data": "outside"}
    assert (found.made, found.changed, found.removed) == (("/mnt/file",), ("/data/file",), ())
    vm.close()


def test_a_file_system_that_the_guest_has_ruined_is_left_to_the_guest(vm: VirtualMachine) -> None:
    vm.diff()
    vm.run("echo one >/mnt/file; sync; dd if=/dev/urandom of=/dev/vda bs=1024 seek=4 count=2000; sync")
    found = vm.diff()
    assert found.looked_at == {"/": "inside", "/mnt": "inside"}
    assert found.remark.startswith("the disk could not be read from outside: ")


def test_that_writes_have_failed_is_said(vm: VirtualMachine) -> None:
    with vm.disk.error("write"):
        vm.run("echo one >/mnt/file; sync")
        found = vm.diff()
    assert not found
    assert found.remark == "writes to its disk have failed: what the guest has in memory may not be there"


def test_only_a_guest_that_answers_can_tell_of_what_is_not_on_a_disk(vm: VirtualMachine) -> None:
    vm.pause()
    with pytest.raises(
        VmError, match="what has changed at / only the guest can tell; but the guest could not be asked"
    ):
        vm.diff()
    vm.resume()
    vm.kill()
    with pytest.raises(GuestDied):
        vm.diff()


def test_without_a_moment_that_is_kept_a_checkpoint_is_asked_for(
    vm: VirtualMachine,
) -> None:
    [fork] = vm.fork()
    with pytest.raises(VmError, match=r"take a checkpoint, and ask for diff\(since=checkpoint\)"):
        fork.diff()
    with fork.checkpoint() as point:
        fork.run("echo one >/mnt/file")
        assert fork.diff(since=point).made == ("/mnt/file",)
    fork.close()
