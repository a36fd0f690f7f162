"""What a machine has changed of its files is told from outside and by the guest, and both tell the same."""

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from pytest_readonly_vm.machine.changes import Changes
from pytest_readonly_vm import Lab, VirtualMachine, VmConfig, VmError
from tests.accelerator import ACCEL
from tests.guests.tiny_linux import tiny_linux
from tests.qemu.channels import machine
from tests.templates import templates


class Operation(NamedTuple):
    """What is done in a folder of its own, and what is to be told of it."""

    do: str
    changes: dict[str, str]
    """By path, as text; a file that is only touched as well."""
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
    "rename over": Operation(
        "echo two >other; mv other file", {"file": "changed: content"}, "echo one >file"
    ),
    "rename over the same": Operation("cp file other; mv other file", {"file": "touched"}, "echo one >file"),
    "unlink and make again": Operation("rm file; echo one >file", {"file": "touched"}, "echo one >file"),
    "rename": Operation("mv file other", {"file": "removed", "other": "made"}, "echo one >file"),
    "exchange": Operation(
        "mv a c; mv b a; mv c b",
        {"a": "changed: content (2 → 4 bytes)", "b": "changed: content (4 → 2 bytes)"},
        "echo 1 >a; echo two >b",
    ),
    "hard link": Operation("ln file other", {"file": "changed: links 1 → 2", "other": "made"}, "echo one >file"),
    "unlink of one name": Operation(
        "rm b", {"a": "changed: links 2 → 1", "b": "removed"}, "echo one >a; ln a b"
    ),
    "retarget": Operation("ln -sfn elsewhere link", {"link": "changed: target"}, "ln -s somewhere link"),
    "retarget a long one": Operation(
        f"ln -sfn {'y' * 200} link", {"link": "changed: target"}, f"ln -s {'x' * 200} link"
    ),
    "other type": Operation(
        "rm -r d; echo one >d", {"d": "changed: directory → file, mode 0755 → 0644", "d/inner": "removed"}, "mkdir d; echo one >d/inner"
    ),
    "device": Operation("rm n; mknod n c 1 5", {"n": "changed: device"}, "mknod n c 1 3"),
    "fifo": Operation("mkfifo pipe", {"pipe": "made (fifo)"}),
    "touch the time of access": Operation("touch -a file", {"file": "touched"}, "echo one >file"),
    "read": Operation("cat file", {}, "echo one >file; touch -d '2001-01-01 00:00' file"),
    "rename a folder": Operation(
        "mv d e",
        {
            **{"d": "removed (directory)", "e": "made (directory)"},
            **{f"d/{number}": "removed" for number in range(30)},
            **{f"e/{number}": "made" for number in range(30)},
        },
        "mkdir d; for n in $(seq 0 29); do echo $n >d/$n; done",
    ),
    "a large folder": Operation(
        "rm big/some-long-name-7; mv big/some-long-name-8 big/other-8; echo >big/new",
        {"big/some-long-name-7": "removed", "big/some-long-name-8": "removed", "big/other-8": "made", "big/new": "made"},
        "mkdir big; cd big; for n in $(seq 1500); do : >some-long-name-$n; done",
    ),
    "deleted but open": Operation("sleep 1000 <file >/dev/null 2>&1 & rm file", {"file": "removed"}, "echo one >file"),
    "made, deleted, open": Operation("{ echo one; exec sleep 1000; } >file 2>/dev/null & while [ ! -s file ]; do :; done; rm file", {}),
    "odd names": Operation(
        r"""echo >"$(printf 'a\nb')"; echo >"$(printf 'c\377d')"; mkdir "$(printf '\033[31m')" """,
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
}  # fmt: skip


def script(place: str, part: str) -> str:
    """All operations, or what is before them, each in a folder of its own and in a shell of its own."""
    folders = [f"mkdir -p {place}/{number}; cd {place}/{number}" for number in range(len(OPERATIONS))]
    scripts = [getattr(operation, part) for operation in OPERATIONS.values()]
    return "umask 022\n" + "".join(f"(\n{one}\n{two}\n)\n" for one, two in zip(folders, scripts, strict=True))


Told = dict[str, dict[str, str]]


def told(vm: VirtualMachine, places: tuple[str, ...]) -> tuple[Changes, dict[str, list[dict[str, str]]]]:
    """What is told of all operations in each of these places, by the operation."""
    vm.run("".join(script(place, "before") for place in places))
    with vm.checkpoint() as start:
        vm.run("".join(script(place, "do") for place in places))
        found = vm.diff(since=start)
        words: dict[str, list[dict[str, str]]] = {place: [{} for _ in OPERATIONS] for place in places}
        for change in (*found, *found.touched):
            for place in places:
                if change.path.startswith(f"{place}/"):
                    number, _, name = change.path.removeprefix(f"{place}/").partition("/")
                    words[place][int(number)][name] = change
        return found, words


@pytest.fixture(scope="module")
def tiny() -> Iterator[VirtualMachine]:
    guest = tiny_linux()
    direct = {"image": guest.disk, "kernel": guest.kernel, "initrd": guest.initrd, "append": guest.append}
    config = VmConfig().replace(
        accel=ACCEL, start="clone", memory="256M", cache=__import__("pathlib").Path("/work/h/x15/diff/cache"), **direct
    )
    with Lab() as lab:
        yield lab.start(config, name="tiny")


def test_x(tiny):
    t = told(tiny, ("/mnt/t", "/root/t"))
    bad = 0
    for place in ("/mnt/t", "/root/t"):
        for (name, op), got in zip(OPERATIONS.items(), t[1][place]):
            words = {n: str(c).partition(": ")[2] for n, c in got.items()}
            if words != op.changes:
                print(place, name, words, op.changes)
                bad += 1
    print(t[0].looked_at)
    assert not bad
