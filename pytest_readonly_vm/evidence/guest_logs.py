"""Owns how a guest's logs are read: their lines, and which of them no healthy guest has. Pure.

What the lines look like is in the sources: the kernel's, and systemd's ``coredump.c``.
"""

import re
from collections.abc import Iterator

KERNEL = re.compile(
    r"(?:[\w ]+: )?BUG: "  # also "watchdog: BUG: soft lockup", "BUG: KASAN:"
    r"|kernel BUG at |Unable to handle kernel |Kernel panic"
    r"|.*\[#\d+\](?: |$)"  # how every architecture counts its oopses: "Oops: 0002 [#1] PREEMPT SMP"
    r"|WARNING: |UBSAN: |kmemleak: \d+ new suspected "
    r"|INFO: task .* blocked for more than |(?:rcu: )?INFO: rcu\w* .*stall|.*detected hard LOCKUP"
    r"|(?:Memory cgroup out|Out) of memory\b.*: Kill"
    r"|EXT4-fs error |EXT4-fs \(.*\): Remounting filesystem read-only|BTRFS (?:error|critical) "
    r"|XFS \(.*\): .*(?:[Cc]orruption|Internal error|Shutting down|Shutdown)"
    r"|(?:\w+: )?(?:I/O|critical \w+) error, dev |Buffer I/O error on |unregister_netdevice: waiting for "
)
"""How a line of the kernel's begins that no healthy guest has."""

CRASH_IN_KERNEL_LOG = re.compile(r".*\[\d+\]:? (?:segfault |unhandled |general protection|trap |bad frame)")
CRASH_IN_JOURNAL = re.compile(
    r"systemd-coredump\[\d+\]: (?:.*Process \d+ \(.*\) of user \d+ dumped core"
    r"|Resource limits disable core dumping for process )"
    # Where nobody takes core dumps, systemd still sees the end of what it has started itself.
    r"|systemd\[\d+\]: .* process exited, code=(?:dumped|killed), status=\d+/(?:SEGV|ABRT|BUS|ILL|FPE|TRAP|SYS)"
)

KERNEL_LINE = re.compile(r"<\d+>\[ *(\d+\.\d+)\](?:\[[^\]]*\])? ?(.*)")  # some kernels add who said it
JOURNAL_LINE = re.compile(r"\[ *(\d+\.\d+)\] (.*)")


def log_lines(text: str, form: re.Pattern[str]) -> Iterator[tuple[float, str]]:
    """The lines of a log with their times; what has none belongs to the one before."""
    stamp = None
    for line in text.splitlines():
        if match := form.fullmatch(line):
            stamp = float(match[1])
            yield stamp, match[2]
        elif stamp is not None:
            yield stamp, line


def failed_units(text: str, *, after: float) -> Iterator[tuple[float, str]]:
    for block in text.strip().split("\n\n"):
        unit = dict(line.partition("=")[::2] for line in block.splitlines())
        since = int(unit.get("StateChangeTimestampMonotonic") or 0) / 1e6
        if unit.get("ActiveState") == "failed" and since >= after:
            yield since, f"{unit['Id']} failed ({unit.get('Result', 'failed')})"
