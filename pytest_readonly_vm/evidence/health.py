"""Owns what a guest shows of trouble since a moment: oopses, failed units, crashes, lines of the user's. For the gates.

The kernel's log comes from ``dmesg``, which has a line as soon as it is said, everywhere; the rest from systemd and its
journal, where there are.
"""

import contextlib
import re
import secrets
import shlex
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from pytest_readonly_vm.errors import GuestPanicked, GuestPaused, GuestReset, VmError
from pytest_readonly_vm.evidence.guest_logs import (
    CRASH_IN_JOURNAL,
    CRASH_IN_KERNEL_LOG,
    JOURNAL_LINE,
    KERNEL,
    KERNEL_LINE,
    failed_units,
    log_lines,
)
from pytest_readonly_vm.host.loop import within

if TYPE_CHECKING:
    from pytest_readonly_vm.machine.vm import VirtualMachine

PATIENCE = 10.0
"""Seconds that a guest has to answer, times the machine's slowness."""

_MONITOR_PATIENCE = 1.0
_JOURNAL = "journal:"

_HEAD = """\
section() {{ printf '\\n{token} %s\\n' "$1"; }}
kernel={kernel} units={units} journal={journal} cursor={cursor} old={old}
read -r boot </proc/sys/kernel/random/boot_id && read -r uptime rest </proc/uptime || exit
[ -d /run/systemd/system ] || units=
if [ "$journal" ] && ! {{ [ -d /run/systemd/journal ] && command -v journalctl >/dev/null; }}; then
journal= kernel=1
fi
section boot
echo "$boot $uptime"
if [ "$kernel" ]; then
section kernel
dmesg -r || exit
fi
"""
_BEGIN = """\
if [ "$journal" ]; then
section cursor
journalctl --quiet --lines=0 --show-cursor || exit
fi
"""
# The journal last, and when it has written down what was sent to it. Of a boot before this one it may have the end.
_END = """\
if [ "$kernel" ] && [ "$boot" != "$old" ] && command -v journalctl >/dev/null; then
section kernel-before
journalctl --quiet --dmesg --boot="$(echo "$old" | tr -d -)" --no-hostname -o short-monotonic 2>/dev/null
fi
if [ "$units" ]; then
section units
systemctl show --state=failed --property=Id,ActiveState,Result,StateChangeTimestampMonotonic '*' || exit
fi
if [ "$journal" ]; then
journalctl --sync
section journal
journalctl --quiet --no-hostname -o short-monotonic ${cursor:+--after-cursor="$cursor"} || exit
fi
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What a guest had shown by a certain moment. Times are seconds of the guest's own clocks, since its boot."""

    boot_id: str
    uptime: float
    kernel: float = -1.0
    """Of the latest line in the kernel's log."""
    cursor: str = ""
    """Of the latest entry in the journal; empty if there is none."""
    taken: float = 0.0
    """On the host's clock, since the epoch."""
    trouble: str = ""


def begin(vm: "VirtualMachine") -> Mark | None:
    """What the guest shows now, by one round trip; None if it is dead or stands still.

    :raises VmError: the guest cannot be looked at: no channel answers, or it has no ``dmesg``.
    """
    taken, trouble = time.time(), str(vm.trouble or "")
    if not _can_answer(vm):
        return None
    try:
        answer = _asked(vm, _BEGIN, Mark(boot_id="", uptime=0.0), PATIENCE * vm.slowness)
        boot_id, uptime = answer["boot"].split()
        stamps = [stamp for stamp, _ in log_lines(answer.get("kernel", ""), KERNEL_LINE)]
        if "kernel" in answer and not stamps:
            raise VmError("its kernel's log has no times (printk.time)")
    except (VmError, TimeoutError) as error:
        raise VmError(
            f"{vm.name}: the health gates cannot look into the guest: {_reason(vm, error)} "
            f"(health={','.join(vm.config.health)}, from {vm.config.origin('health')})"
        ) from None
    return Mark(
        boot_id=boot_id,
        uptime=float(uptime),
        kernel=stamps[-1] if stamps else -1.0,
        cursor=answer.get("cursor", "").partition("cursor: ")[2].strip(),
        taken=taken,
        trouble=trouble,
    )


def complaints(vm: "VirtualMachine", mark: Mark, *, patience: float | None = None) -> list[str]:
    """What the guest shows since the mark that the setting ``health`` minds and ``health_allow`` does not; one a line.

    One round trip, of at most `patience` seconds. A guest that does not answer is a complaint, too; one that is paused,
    or whose QEMU has ended, is none: others tell of that, unless it was a panic, a reset or a broken disk.
    """
    found = _deadly(vm, mark)
    if _can_answer(vm):
        try:
            answer = _asked(vm, _END, mark, patience or PATIENCE * vm.slowness)
            found += judged(answer, mark, vm.config.health)
        except (VmError, TimeoutError) as error:
            found = _deadly(vm, mark)
            if vm.trouble is None:
                found.append(("", "", f"the guest cannot be looked at: {_reason(vm, error)}"))
    allowed = [re.compile(pattern) for pattern in vm.config.health_allow]
    return [f"{head}{gate}{text}" for head, gate, text in found if not any(one.search(text) for one in allowed)]


def judged(answer: Mapping[str, str], mark: Mark, gates: Iterable[str]) -> list[tuple[str, str, str]]:
    """What is to be complained of in a guest's answer: each the time, the gate and the line. Pure."""
    is_same_boot = answer["boot"].split()[0] == mark.boot_id
    after = mark.kernel if is_same_boot else -1.0
    kernel = [line for line in log_lines(answer.get("kernel-before", ""), JOURNAL_LINE) if line[0] > mark.kernel]
    kernel = [(stamp, text.removeprefix("kernel: ")) for stamp, text in kernel]
    kernel += [line for line in log_lines(answer.get("kernel", ""), KERNEL_LINE) if line[0] > after]
    journal = list(log_lines(answer["journal"], JOURNAL_LINE)) if "journal" in answer else kernel
    units = sorted(failed_units(answer.get("units", ""), after=mark.uptime if is_same_boot else 0.0))
    found = []
    for gate in gates:
        if gate == "kernel":
            lines = [line for line in kernel if KERNEL.match(line[1])]
        elif gate == "units":
            lines = units
        elif gate == "cores":
            lines = [line for line in kernel if CRASH_IN_KERNEL_LOG.match(line[1])]
            lines += [line for line in journal if CRASH_IN_JOURNAL.match(line[1])]
        else:
            pattern = re.compile(gate.removeprefix(_JOURNAL))
            lines = [line for line in journal if pattern.search(line[1])]
        found += [(f"[{stamp:12.6f}] ", f"{gate.partition(':')[0]}: ", text) for stamp, text in lines]
    return found


def _deadly(vm: "VirtualMachine", mark: Mark) -> list[tuple[str, str, str]]:
    """What has happened to the guest as a whole, if nobody expected it."""
    trouble = vm.trouble
    if not isinstance(trouble, GuestPanicked | GuestReset | GuestPaused) or str(trouble) == mark.trouble:
        return []
    expected = any((one.kind, one.what) == ("wait", "panic") and one.time >= mark.taken for one in vm.history.entries())
    is_minded = "kernel" in vm.config.health and not (expected and isinstance(trouble, GuestPanicked))
    return [("", "kernel: ", _reason(vm, trouble))] if is_minded else []


def _reason(vm: "VirtualMachine", error: Exception) -> str:
    """What an error says after the machine's name."""
    return str(error).removeprefix(f"{vm.name}: ")


def _can_answer(vm: "VirtualMachine") -> bool:
    """Whether the guest goes on, as far as QEMU knows."""
    if vm.closed or not vm.is_running() or vm.qmp.liveness.cause is not None:
        return False
    with contextlib.suppress(VmError):  # a monitor that is lost does not keep a guest from answering
        return bool(vm.qmp.execute("query-status", timeout=_MONITOR_PATIENCE)["running"])
    return True


def _asked(vm: "VirtualMachine", questions: str, mark: Mark, patience: float) -> dict[str, str]:
    """The sections of the guest's answer, by name.

    :raises TimeoutError: it has not answered within `patience` seconds.
    :raises VmError: it cannot.
    """
    gates = vm.config.health
    token = secrets.token_hex(8)
    wanted = {
        "kernel": "kernel" in gates or "cores" in gates,
        "units": "units" in gates,
        "journal": "cores" in gates or any(gate.startswith(_JOURNAL) for gate in gates),
    }
    flags = {name: "1" if is_wanted else "" for name, is_wanted in wanted.items()}
    head = _HEAD.format(token=token, cursor=shlex.quote(mark.cursor), old=shlex.quote(mark.boot_id), **flags)

    late = partial(TimeoutError, f"it did not answer within {patience:g} s")
    asked = vm.qmp.liveness.race(vm.commands.run(head + questions, check=False))
    with vm.history.noting("health", "health gates"):
        result = vm.loop.run(within(patience, asked, late))
    if result.exit_code:
        said = result.stderr.strip().splitlines() or [f"exit code {result.exit_code}"]
        raise VmError(said[-1])
    sections = (section.partition("\n") for section in result.stdout.split(f"\n{token} ")[1:])
    return {name: text for name, _, text in sections}
