"""Owns what a guest itself complains of when a test has failed: units, its kernel, its journal; in a few lines. Pure.

It is looked for in the same round trip as the rest of the evidence (see `collect`), so it costs a passing test nothing.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from pytest_readonly_vm.evidence.guest_logs import (
    CRASH_IN_KERNEL_LOG,
    JOURNAL_LINE,
    KERNEL,
    KERNEL_LINE,
    failed_units,
    log_lines,
)
from pytest_readonly_vm.printable import line

MOST = 5
"""Lines: what does not fit is in the evidence."""

LAST_SAID = ", last said: "
"""Between what has become of a unit and the last words of its programs, which need not be the reason."""

_LONGEST = 200
_ERROR = 3
"""The level of a message, as syslog has it, from which on it is one of trouble: 0 is an emergency."""

# Without -S, which BusyBox does not know, util-linux leaves out whether a program has said it, and not the kernel.
# Last words: what the unit's processes said, and not what systemd says of them. Of units that failed long ago, too, as
# the shell is not to compare times; nor is journalctl, by a clock that a test may have set.
QUESTIONS = """\
section uptime
cat /proc/uptime
if [ -d /run/systemd/system ]; then
journalctl --sync
section units
failed=$(systemctl show --state=failed --property=Id,ActiveState,Result,StateChangeTimestampMonotonic '*')
printf '%s\\n' "$failed"
printf '%s\\n' "$failed" | sed -n 's/^Id=//p' | head -n 8 | while read -r unit; do
section "words of $unit"
journalctl --quiet --boot --lines=1 -o cat "_SYSTEMD_UNIT=$unit"
done
section errors
journalctl --quiet --boot --priority=err --no-hostname -o short-monotonic --lines=200
fi
section log
(dmesg -r -S 2>/dev/null || dmesg -r) | tail -n 1000
"""
"""For the guest's shell, where ``section`` begins a section of the answer."""

_PROCESS = re.compile(r"^(\S+?)\[\d+\]: ")
"""Who has said a line of the journal: the same line of many processes is said once."""

_UPTIME = re.compile(r"\d+\.\d+")
_LEVEL = re.compile(r"<(\d+)>.*")


def complaints(answers: Mapping[str, str], *, age: float, allowed: Iterable[str] = ()) -> list[str]:
    """What the guest complained of in the last `age` seconds: at most five lines, those of failed units first.

    :param answers: the sections of its answer; without the time that it has been up nothing is known to be new.
    :param allowed: regular expressions of what is known and harmless.
    """
    if (uptime := _UPTIME.match(answers.get("uptime", ""))) is None:
        return []
    after = float(uptime[0]) - age
    patterns = [re.compile(one) for one in allowed]
    found = [line(one, _LONGEST) for one in _all(answers, after) if not any(known.search(one) for known in patterns)]
    counted = [f"{one} ({times} times)" if times > 1 else one for one, times in Counter(found).items()]
    left = len(counted) - MOST
    return counted if left <= 0 else [*counted[: MOST - 1], f"… and {left + 1} more"]


def _all(answers: Mapping[str, str], after: float) -> Iterator[str]:
    units = sorted(failed_units(answers.get("units", ""), after=after))
    names = [failed.partition(" ")[0] for _, failed in units]
    for name, (_, failed) in zip(names, units, strict=True):
        words = answers.get(f"words of {name}", "").strip()
        yield f"{failed}{LAST_SAID}{words}" if words else failed
    for stamp, text in _kernel(answers.get("log", "")):
        if stamp >= after:
            yield f"kernel: {text}"
    for stamp, text in log_lines(answers.get("errors", ""), JOURNAL_LINE):
        is_told = (
            stamp < after
            or text.startswith("kernel: ")
            or (text.startswith("systemd[1]: ") and any(one in text for one in names))
        )
        if not is_told:
            yield _PROCESS.sub(r"\1: ", text)


def _kernel(log: str) -> Iterator[tuple[float, str]]:
    """What the kernel, and not a program through it, has logged as an error, or as what no healthy guest has."""
    for match in _LEVEL.finditer(log):
        facility, level = divmod(int(match[1]), 8)
        for stamp, text in log_lines(match[0], KERNEL_LINE):
            if facility == 0 and (level <= _ERROR or KERNEL.match(text) or CRASH_IN_KERNEL_LOG.match(text)):
                yield stamp, text
