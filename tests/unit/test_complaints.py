"""What a guest complains of, as it is told with a failure."""

import pytest

from pytest_readonly_vm.channels.history import HistoryEntry
from pytest_readonly_vm.evidence.collect import _age
from pytest_readonly_vm.evidence.complaints import complaints

UPTIME = "100.00 90.00\n"


def unit(name: str, at: float, result: str = "exit-code") -> str:
    return f"Id={name}\nActiveState=failed\nResult={result}\nStateChangeTimestampMonotonic={at * 1e6:.0f}\n"


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        ({}, []),
        ({"uptime": "cat: /proc/uptime: No such file or directory\n", "units": unit("b.service", 95)}, []),
        ({"uptime": "", "units": unit("b.service", 95)}, []),
        ({"uptime": UPTIME, "units": "\n", "log": "<6>[   99.000000] all is well\n", "errors": ""}, []),
        (
            {"units": "\n".join([unit("old.service", 50), unit("b.service", 95), unit("a.mount", 96, "timeout")])},
            ["b.service failed (exit-code)", "a.mount failed (timeout)"],
        ),
        (
            {"units": unit("b.service", 95), "words of b.service": "no \x1b[31mconfiguration\n"},
            ["b.service failed (exit-code), last said: no configuration"],
        ),
        # What systemd says of a unit, and the journal of the kernel, is told already.
        (
            {
                "units": unit("b.service", 95),
                "errors": "[   95.1] systemd[1]: Failed to start b.service - B.\n[   95.2] kernel: bad\n"
                "[   89.9] sshd[7]: error: before\n"
                "[   95.3] sshd[7]: error: no hostkey\n[   95.4] systemd[1]: Failed to mount /x.\n",
            },
            ["b.service failed (exit-code)", "sshd: error: no hostkey", "systemd: Failed to mount /x."],
        ),
        # Of the kernel's log: its own errors, and what no healthy guest has; not a program's, not what was before.
        (
            {
                "log": "<3>[   89.000000] before\n<3>[   91.000000] an error\n<4>[   92.000000] a warning\n"
                "<11>[   93.000000] a program\n<6>[   94.000000] sh[7]: segfault at 0 ip 0\n"
                "<4>[   95.000000][    T1] WARNING: CPU: 0 PID: 1 at x.c:1\n"
            },
            ["kernel: an error", "kernel: sh[7]: segfault at 0 ip 0", "kernel: WARNING: CPU: 0 PID: 1 at x.c:1"],
        ),
        ({"log": "<3>[   91.0] known noise 17\n<3>[   91.0] other\n"}, ["kernel: other"]),
        ({"log": "<3>[   91.0] same\n" * 30 + "<3>[   92.0] other\n"}, ["kernel: same (30 times)", "kernel: other"]),
        (
            {"log": "".join(f"<3>[   91.0] error {number}\n" for number in range(9))},
            ["kernel: error 0", "kernel: error 1", "kernel: error 2", "kernel: error 3", "… and 5 more"],
        ),
    ],
    ids=[
        "no answer",
        "no time",
        "half an answer",
        "nothing",
        "units",
        "words",
        "once",
        "kernel",
        "allowed",
        "repeated",
        "many",
    ],
)
def test_complaints_are_few_and_said_once(answers: dict[str, str], told: list[str]) -> None:
    assert complaints({"uptime": UPTIME, **answers}, age=10.0, allowed=["noise \\d+"]) == told


STARTED, HANDED_OVER, NOW = 1000.0, 1010.0, 1100.0


@pytest.mark.parametrize(
    ("entries", "seconds"),
    [
        ([], 90),
        ([("event", "STOP", 1005), ("event", "RESUME", 1006)], 90),
        ([("start", "clone", 1050)], 50),
        # A pause, and two, and one that goes on; a machine that was paused when it was handed over.
        ([("event", "STOP", 1020), ("event", "RESUME", 1050)], 60),
        (
            [
                ("event", what, time)
                for what, time in zip(("STOP", "RESUME") * 2, (1020, 1030, 1060, 1070), strict=True)
            ],
            70,
        ),
        ([("event", "STOP", 1020)], 10),
        ([("event", "RESUME", 1020)], 90),
        # To a checkpoint of the test, to one from before it, and paused afterwards.
        ([("state", "restore", 1090, 1015)], 15),
        ([("state", "restore", 1090, 1005)], 10),
        ([("event", "STOP", 1020), ("state", "restore", 1030, 1015), ("event", "STOP", 1040)], 15),
    ],
)
def test_no_time_passes_in_a_guest_that_is_paused_or_set_back(
    entries: list[tuple[str, str, float] | tuple[str, str, float, float]], seconds: float
) -> None:
    history = [HistoryEntry("start", "clone", STARTED)]
    for kind, what, time, *to in entries:
        history.append(HistoryEntry(kind, what, time, detail={"to": to[0]} if to else {}))
    assert _age(history, HANDED_OVER, NOW) == seconds + 1
