"""What health gates mind of a guest's answer, and what not: lines as kernels and systemd write them."""

from collections.abc import Iterable

import pytest

from pytest_readonly_vm.evidence.health import Mark, judged

MARK = Mark(boot_id="this", uptime=20.0, kernel=20.5)


def complained(answer: dict[str, str], *gates: str, mark: Mark = MARK) -> list[str]:
    return [f"{gate}{text}" for _, gate, text in judged({"boot": "this 30.00\n", **answer}, mark, gates)]


def kernel_log(lines: Iterable[str], *, at: float = 21.0) -> str:
    return "".join(f"<4>[{at:12.6f}] {line}\n" for line in lines)


@pytest.mark.parametrize(
    "line",
    [
        "BUG: unable to handle page fault for address: ffffa0c0deadbeef",
        "BUG: kernel NULL pointer dereference, address: 0000000000000000",
        "BUG: KASAN: use-after-free in foo+0x1/0x2",
        "BUG: scheduling while atomic: sh/1/0x00000002",
        "watchdog: BUG: soft lockup - CPU#0 stuck for 25s! [sh:1]",
        "NMI watchdog: Watchdog detected hard LOCKUP on cpu 1",
        "kernel BUG at fs/ext4/inode.c:2712!",
        "Oops: 0002 [#1] PREEMPT SMP NOPTI",
        "general protection fault, probably for non-canonical address 0xdead000000000100: 0000 [#1] SMP PTI",
        "Unable to handle kernel NULL pointer dereference at virtual address 0000000000000000",
        "Internal error: Oops: 96000045 [#1] SMP",
        "WARNING: CPU: 0 PID: 1 at net/core/dev.c:2712 dev_watchdog+0x1/0x2",
        "WARNING: possible circular locking dependency detected",
        "UBSAN: shift-out-of-bounds in lib/foo.c:12:3",
        "INFO: task touch:123 blocked for more than 120 seconds.",
        "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
        "rcu: INFO: rcu_sched self-detected stall on CPU",
        "Out of memory: Killed process 123 (tail) total-vm:99kB, anon-rss:99kB",
        "Memory cgroup out of memory: Killed process 123 (tail) total-vm:99kB",
        "EXT4-fs error (device vda): ext4_lookup:1785: inode #2: comm ls: deleted inode referenced: 12",
        "EXT4-fs (vda1): Remounting filesystem read-only",
        "BTRFS critical (device vda): corrupt leaf, slot offset bad",
        "XFS (vda): Metadata CRC error detected, Corruption of in-memory data detected.  Shutting down filesystem",
        "I/O error, dev vda, sector 2048 op 0x1:(WRITE) flags 0x800 phys_seg 1 prio class 2",
        "blk_update_request: I/O error, dev vda, sector 2048 op 0x1:(WRITE) flags 0x0 phys_seg 1 prio class 0",
        "Buffer I/O error on dev vda, logical block 0, lost async page write",
    ],
)
def test_the_kernel_is_heard(line: str) -> None:
    assert complained({"kernel": kernel_log([line])}, "kernel") == [f"kernel: {line}"]


@pytest.mark.parametrize(
    "line",
    [
        "EXT4-fs (vda): mounted filesystem with ordered data mode. Quota mode: none.",
        "XFS (vda): Mounting V5 Filesystem",
        "systemd[1]: WARNING: somebody else's",
        "printk: console [ttyS0] enabled",
        "sysrq: Show Blocked State",
        "Call Trace:",
        "rcu: Hierarchical RCU implementation.",
        "sh[123]: segfault at 0 ip 0000000000401000 sp 00007ffe1 error 6 in crash[401000+1000]",
    ],
)
def test_what_the_kernel_says_in_passing_is_not(line: str) -> None:
    assert complained({"kernel": kernel_log([line])}, "kernel") == []


def test_only_what_is_new_counts() -> None:
    old, new = (kernel_log([f"WARNING: {at}"], at=at) for at in (20.5, 20.500001))
    assert complained({"kernel": old + new}, "kernel") == ["kernel: WARNING: 20.500001"]
    with_callers = "<4>[   19.000000][    T1] WARNING: old\n<4>[   21.000000][    T1] WARNING: new\n"
    assert complained({"kernel": with_callers}, "kernel") == ["kernel: WARNING: new"]


def test_after_a_reboot_all_counts_and_the_end_of_the_boot_before() -> None:
    answer = {
        "boot": "another 5.00\n",
        "kernel": kernel_log(["WARNING: of the new boot"], at=1.0),
        "kernel-before": "[   19.000000] kernel: WARNING: old\n[   25.000000] kernel: WARNING: before the reboot\n",
        "units": "Result=exit-code\nId=a.service\nActiveState=failed\nStateChangeTimestampMonotonic=3000000\n",
    }
    assert complained(answer, "kernel", "units") == [
        "kernel: WARNING: before the reboot",
        "kernel: WARNING: of the new boot",
        "units: a.service failed (exit-code)",
    ]


def test_units_that_failed_since() -> None:
    units = (
        "Result=exit-code\nId=old.service\nActiveState=failed\nStateChangeTimestampMonotonic=19999999\n\n"
        "Result=oom-kill\nId=new.service\nActiveState=failed\nStateChangeTimestampMonotonic=21000000\n\n"
        # An old systemctl minds no state here.
        "Result=success\nId=good.service\nActiveState=active\nStateChangeTimestampMonotonic=21000000\n"
    )
    assert judged({"boot": "this 30.00", "units": units}, MARK, ["units"]) == [
        ("[   21.000000] ", "units: ", "new.service failed (oom-kill)")
    ]
    assert complained({"units": ""}, "units") == []


@pytest.mark.parametrize(
    "line",
    [
        "crash[45]: segfault at 0 ip 0000000000401000 sp 00007ffe1 error 6 in crash[401000+1000] likely on CPU 0",
        "traps: crash[45] general protection fault ip:401000 sp:7ffe1 error:0 in crash[401000+1000]",
        "traps: crash[45] trap invalid opcode ip:401000 sp:7ffe1 error:0 in crash[401000+1000]",
        "crash[45]: unhandled level 2 translation fault (11) at 0x00000000, esr 0x92000046, in crash[401000+1000]",
    ],
)
def test_crashes_in_the_kernels_log(line: str) -> None:
    assert complained({"kernel": kernel_log([line])}, "cores") == [f"cores: {line}"]


@pytest.mark.parametrize(
    "line",
    [
        "systemd-coredump[700]: Process 698 (sh) of user 0 dumped core.",
        "systemd-coredump[700]: [🡕] Process 698 (sh) of user 0 dumped core.",
        "systemd-coredump[700]: Resource limits disable core dumping for process 698 (sh).",
        "systemd[1]: crash.service: Main process exited, code=dumped, status=11/SEGV",
        "systemd[1]: crash.service: Main process exited, code=killed, status=6/ABRT",
    ],
)
def test_crashes_in_the_journal(line: str) -> None:
    journal = f"[   21.000000] {line}\n    Stack trace of thread 698:\n[   22.000000] systemd[1]: Started a.service.\n"
    assert complained({"journal": journal}, "cores") == [f"cores: {line}"]


def test_a_service_that_was_killed_or_failed_has_not_crashed() -> None:
    journal = "[   21.000000] systemd[1]: a.service: Main process exited, code={}\n"
    for ending in ("killed, status=9/KILL", "killed, status=15/TERM", "exited, status=1/FAILURE"):
        assert complained({"journal": journal.format(ending)}, "cores") == []


def test_patterns_of_the_users() -> None:
    journal = "[   21.000000] app[5]: all is well\n[   22.000000] app[5]: Traceback:\n    ZeroDivisionError\n"
    kernel = kernel_log(["denied by policy"])
    gates = ("journal:Zero|Trace", "journal:denied")
    assert complained({"journal": journal, "kernel": kernel}, *gates) == [
        "journal: app[5]: Traceback:",
        "journal:     ZeroDivisionError",
    ]
    assert complained({"kernel": kernel}, *gates) == ["journal: denied by policy"], "where there is no journal"
