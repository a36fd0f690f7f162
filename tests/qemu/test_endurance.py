"""A long session costs no more than a short one: nothing grows with the number of machines, of events, of bytes."""

import subprocess
import sys
import textwrap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from pytest_readonly_vm import Lab, VirtualMachine, VmConfig
from tests.accelerator import ACCEL
from tests.qemu.holdings import SLACK, Holdings
from tests.qemu.waiting import eventually

MACHINES = 40
WARM_UP = 10
EVENTS = 1_500
KEPT = 1 << 20
"""Characters of a console that are held in memory."""


def test_machines_in_a_row_hold_no_more_than_one(
    temporary: Path, small: Callable[..., VmConfig], allocated: Callable[[], int]
) -> None:
    config = small("hello")
    with Lab() as lab:

        def boot(times: int) -> None:
            for number in range(times):
                machine = lab.start(config, name=f"machine {number}")
                assert machine.qmp.execute("query-status")["running"]
                machine.close()

        boot(WARM_UP)
        held, memory = Holdings.now(temporary), allocated()
        boot(MACHINES - WARM_UP)
        later = Holdings.now(temporary)
        assert replace(later, threads=0) == replace(held, threads=0)
        assert later.threads <= held.threads  # idle ones of earlier tests may have ended
        assert allocated() < memory + SLACK // 4


def test_machines_that_many_threads_start_at_once_hold_nothing_when_their_lab_is_left(
    temporary: Path, small: Callable[..., VmConfig]
) -> None:
    config = small("hello")
    for _ in range(2):  # what the first one loads stays loaded
        held = Holdings.now(temporary)
        with Lab() as lab, ThreadPoolExecutor(8) as threads:
            names = [f"machine {number}" for number in range(16)]
            machines = list(threads.map(lambda name: lab.start(config, name=name), names))
            assert [machine.qmp.execute("query-name")["name"] for machine in machines] == names
        assert not any(machine.is_running() for machine in machines)
    eventually(lambda: Holdings.now(temporary).are_no_more_than(held), "all has been given back")


def test_a_guest_that_never_stops_talking_costs_bounded_memory_and_loses_no_byte(
    boot: Callable[..., VirtualMachine], allocated: Callable[[], int]
) -> None:
    machine = boot("chatter", ready="console:^line 00000001$")
    memory = allocated()
    eventually(lambda: machine.console.log_path.stat().st_size > KEPT + KEPT // 8, "more than is kept", within=120)
    assert allocated() < memory + SLACK + 4 * 2 * KEPT
    machine.kill()
    whole = machine.console.log_path.read_text(encoding="ascii")
    machine.close()

    lines = whole[whole.index("line") :].splitlines()[:-1]  # the last one may be cut
    assert lines == [f"line {number:08}" for number in range(1, len(lines) + 1)]
    assert machine.console.text == whole[-KEPT:]
    assert len(machine.console.text) == KEPT


def test_a_guest_that_floods_the_monitor_costs_bounded_memory(
    boot: Callable[..., VirtualMachine], allocated: Callable[[], int]
) -> None:
    machine = boot("obeys", start="cold", qemu_args=("-device", "pvpanic", "-action", "panic=none"))
    machine.console.send("p" * EVENTS)  # a panic each, thousands in a second
    eventually(lambda: machine.qmp.heard >= EVENTS, "more events than are kept")
    memory = allocated()
    machine.console.send("p" * EVENTS)
    eventually(lambda: machine.qmp.heard >= 2 * EVENTS, "as many again")
    assert allocated() < memory + SLACK
    machine.kill()
    events = machine.qmp.events
    assert len(events) == 1000
    assert [event.number for event in events] == list(range(events[0].number, events[0].number + 1000))


def test_leaving_a_lab_lets_go_of_machines_that_nobody_closed(
    temporary: Path, boot_sector: Callable[[str], Path]
) -> None:
    program = textwrap.dedent(f"""
        import gc
        from pytest_readonly_vm import Lab, VmConfig
        config = VmConfig().replace(image={str(boot_sector("hello"))!r}, memory="16M", accel={ACCEL!r}, ready="none")
        config = config.replace(budget="off")
        with Lab() as lab:
            forgotten = lab.start(config, name="forgotten")
        assert not forgotten.is_running()
        del forgotten
        gc.collect()
    """)
    # Not by -X dev: asyncio would tell of each callback that a busy computer takes a tenth of a second for.
    done = subprocess.run([sys.executable, "-W", "default", "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert list(temporary.glob("*/*")) == []
