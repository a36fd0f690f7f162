"""What of a kernel's last words is shown."""

import pytest

from pytest_readonly_vm.channels.last_words import last_words

REGISTERS = [f"[   12.8] RAX: {number:016x} RBX: 0000000000000000" for number in range(40)]
GUESSES = [f"[   12.7]  ? guess{number}+0x1/0x2" for number in range(30)]
CALLS = [f"[   12.7]  call{number}+0x1b/0x40" for number in range(20)]
COMM = "[   12.6] CPU: 0 PID: 240 Comm: sh Not tainted 6.1.0-56 #1  Debian 6.1.192-2"
HARDWARE = "[   12.6] Hardware name: QEMU Standard PC (i440FX + PIIX, 1996)"
TRACE = ["[   12.6] Call Trace:", "[   12.7]  <TASK>", *GUESSES, *CALLS]
USER = "[   12.7] RIP: 0033:0x7f14d0b16350"

SYSRQ = "[   12.5] Kernel panic - not syncing: sysrq triggered crash"
INIT = "[   12.5] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100"
BUG = "[   12.4] BUG: kernel NULL pointer dereference, address: 0000000000000000"
OOPS = "[   12.4] Oops: 0002 [#1] PREEMPT SMP NOPTI"
PLACE = "[   12.4] RIP: 0010:shop_write+0x17/0x30 [shop]"
FATAL = "[   12.9] Kernel panic - not syncing: Fatal exception"
WARNING = "[   12.1] WARNING: CPU: 0 PID: 9 at mm/page.c:1 free+0x1/0x2"
SURVIVED = "[   12.2] ---[ end trace 0000000000000000 ]---"
ON_WARNING = "[   12.8] Kernel panic - not syncing: kernel: panic_on_warn set ..."
OTHER = "[   12.9] CPU: 0 PID: 300 Comm: bash Not tainted 6.1.0-56 #1  Debian 6.1.192-2"
END = "[   12.9] ---[ end Kernel panic - not syncing: Fatal exception ]---"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (
            ["booting", "login: [   12.4] sysrq: Trigger a crash", SYSRQ, COMM, HARDWARE, *TRACE, USER, *REGISTERS],
            ["booting", "login: [   12.4] sysrq: Trigger a crash", SYSRQ, COMM, TRACE[0], *CALLS[:6]],
        ),
        # What went before is where a panic that follows from an oops began.
        (
            ["one", "two", "three", "", "four", BUG, OOPS, COMM, HARDWARE, PLACE, *REGISTERS, *TRACE, USER, FATAL, END],
            ["two", "three", "four", BUG, OOPS, COMM, PLACE, TRACE[0], *CALLS[:6], FATAL],
        ),
        # A warning that was survived is not how it began, and one that it panics on is.
        (
            ["up", WARNING, COMM, PLACE, *TRACE, SURVIVED, "later", SYSRQ, OTHER],
            [CALLS[-1], SURVIVED, "later", SYSRQ, OTHER],
        ),
        (["up", WARNING, COMM, PLACE, ON_WARNING, END], ["up", WARNING, COMM, PLACE, ON_WARNING]),
        (["init: no such file", INIT, COMM], ["init: no such file", INIT, COMM]),
        ([SYSRQ.removeprefix("[   12.5] ")], [SYSRQ.removeprefix("[   12.5] ")]),
        (
            ["panic: vm_fault", "cpuid = 0", "time = 1", "KDB: stack backtrace:", "#0 0xc1 at kdb+0x1", "Uptime: 5s"],
            ["panic: vm_fault", "cpuid = 0", "time = 1", "KDB: stack backtrace:", "#0 0xc1 at kdb+0x1", "Uptime: 5s"],
        ),
        (["all is well", BUG, OOPS, COMM], []),
        ([], []),
    ],
    ids=[
        "sysrq",
        "oops",
        "warning",
        "panic on a warning",
        "init",
        "nothing but the line",
        "FreeBSD",
        "no panic",
        "nothing",
    ],
)
def test_the_head_of_a_panic_is_shown(said: list[str], shown: list[str]) -> None:
    assert last_words("\n".join(said)) == shown


def test_the_head_is_that_of_the_panic_and_not_of_what_a_program_quotes() -> None:
    quoted = ["what to do about", FATAL.partition("] ")[2], "and that is all", "one", "two", "three"]
    said = "\n".join([*quoted, SYSRQ, COMM, *TRACE])
    assert last_words(said, "sysrq triggered crash") == ["one", "two", "three", SYSRQ, COMM, TRACE[0], *CALLS[:6]]
