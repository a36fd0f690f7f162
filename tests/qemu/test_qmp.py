"""The monitor keeps what its docstrings say: commands, events, errors, the end of QEMU, a second monitor."""

import contextlib
import itertools
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pytest_readonly_vm import ConnectionLost, GuestDied, QmpError, QmpEvent, VirtualMachine, WaitTimeout
from tests.qemu.conftest import STARTS
from tests.qemu.waiting import GENEROUS

WAITERS = 10

HOWEVER_IT_CAME_TO_BE = pytest.mark.parametrize("vm_start", ["cold"])
"""For what is decided on this side of the monitor, or takes seconds at its end: once is enough."""


@pytest.fixture
def vm_image(boot_sector: Callable[[str], Path]) -> Path:
    return boot_sector("hello")


@pytest.fixture(params=STARTS)
def vm_start(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def stop_and_go(vm: VirtualMachine, times: int = 1) -> None:
    """Make QEMU report ``STOP`` and ``RESUME``, so many times."""
    for _ in range(times):
        vm.qmp.execute("stop")
        vm.qmp.execute("cont")


class TestExecute:
    def test_returns_what_qemu_answers(self, readonly_vm: VirtualMachine) -> None:
        assert readonly_vm.qmp.execute("query-status")["status"] == "running"

    def test_sends_named_arguments_with_hyphens_for_underscores(self, readonly_vm: VirtualMachine) -> None:
        readonly_vm.qmp.execute("blockdev-add", driver="null-co", node_name="nothing", read_zeroes=True)
        nodes = readonly_vm.qmp.execute("query-named-block-nodes")
        assert "nothing" in [node["node-name"] for node in nodes]

    def test_sends_arguments_of_a_mapping_as_they_are(self, readonly_vm: VirtualMachine) -> None:
        with pytest.raises(QmpError, match="node_name"):
            readonly_vm.qmp.execute("blockdev-add", {"driver": "null-co", "node_name": "nothing"})
        readonly_vm.qmp.execute("blockdev-add", {"driver": "null-co"}, node_name="nothing")

    def test_raises_what_qemu_refuses_with_its_own_words(self, readonly_vm: VirtualMachine) -> None:
        with pytest.raises(QmpError) as refusal:
            readonly_vm.qmp.execute("device_del", id="nobody")
        assert refusal.value.command == "device_del"
        assert refusal.value.arguments == {"id": "nobody"}
        assert refusal.value.error_class == "DeviceNotFound"
        assert refusal.value.description == "Device 'nobody' not found"
        assert str(refusal.value) == "device_del: Device 'nobody' not found (DeviceNotFound)"

    def test_raises_for_a_command_that_does_not_exist(self, readonly_vm: VirtualMachine) -> None:
        with pytest.raises(QmpError, match="CommandNotFound"):
            readonly_vm.qmp.execute("make-coffee")
        assert readonly_vm.qmp.execute("query-status")["running"]

    def test_gives_up_at_its_deadline_and_works_again_when_qemu_does(self, readonly_vm: VirtualMachine) -> None:
        os.kill(readonly_vm.pid, signal.SIGSTOP)
        try:
            with pytest.raises(WaitTimeout, match=r"QEMU did not answer query-status within 0\.2 s"):
                readonly_vm.qmp.execute("query-status", timeout=0.2)
        finally:
            os.kill(readonly_vm.pid, signal.SIGCONT)
        assert readonly_vm.qmp.execute("query-status")["running"]

    @HOWEVER_IT_CAME_TO_BE
    def test_is_safe_to_call_from_many_threads_at_once(self, readonly_vm: VirtualMachine) -> None:
        def ask(number: int) -> None:
            readonly_vm.qmp.execute("object-add", {"qom-type": "memory-backend-ram"}, id=f"o{number}", size=1 << 20)
            found = readonly_vm.qmp.execute("qom-get", path=f"/objects/o{number}", property="size")
            assert found == 1 << 20
            readonly_vm.qmp.execute("object-del", id=f"o{number}")

        with ThreadPoolExecutor(16) as threads:
            list(threads.map(ask, range(200)))

    @HOWEVER_IT_CAME_TO_BE
    def test_takes_and_returns_more_than_fits_a_buffer(self, readonly_vm: VirtualMachine) -> None:
        data = "x" * 300_000
        readonly_vm.qmp.execute("chardev-add", id="ring", backend={"type": "ringbuf", "data": {"size": 1 << 19}})
        readonly_vm.qmp.execute("ringbuf-write", device="ring", data=data)
        assert readonly_vm.qmp.execute("ringbuf-read", device="ring", size=len(data)) == data


class TestWaitEvent:
    def test_counts_an_event_that_came_before(self, readonly_vm: VirtualMachine) -> None:
        stop_and_go(readonly_vm)
        event = readonly_vm.qmp.wait_event("STOP", timeout=0.001)
        assert event.name == "STOP"
        assert abs(event.time - time.time()) < GENEROUS

    def test_returns_each_event_once_in_order(self, readonly_vm: VirtualMachine) -> None:
        stop_and_go(readonly_vm, times=3)
        numbers = [readonly_vm.qmp.wait_event("STOP").number for _ in range(3)]
        assert numbers == sorted(set(numbers))
        with pytest.raises(WaitTimeout):
            readonly_vm.qmp.wait_event("STOP", timeout=0.05)
        assert readonly_vm.qmp.wait_event("RESUME").number > numbers[0]

    def test_does_not_count_events_of_the_boot(self, boot: Callable[..., VirtualMachine]) -> None:
        survived = ("-device", "pvpanic", "-action", "panic=none")
        machine = boot("panics", ready="event:GUEST_PANICKED", qemu_args=survived, start="cold")
        assert [event.name for event in machine.qmp.events] == ["GUEST_PANICKED"]
        with pytest.raises(WaitTimeout):
            machine.qmp.wait_event("GUEST_PANICKED", timeout=0.05)

    def test_gives_each_event_to_one_of_several_waiters(self, readonly_vm: VirtualMachine) -> None:
        with ThreadPoolExecutor(WAITERS) as threads:
            waits = [threads.submit(readonly_vm.qmp.wait_event, "STOP", None, GENEROUS) for _ in range(WAITERS)]
            stop_and_go(readonly_vm, times=WAITERS)
            assert len({wait.result().number for wait in waits}) == WAITERS

    def test_waits_for_one_that_comes_later(self, readonly_vm: VirtualMachine) -> None:
        with ThreadPoolExecutor(1) as threads:
            wait = threads.submit(readonly_vm.qmp.wait_event, "RESET", timeout=GENEROUS)
            readonly_vm.qmp.execute("system_reset")
            assert wait.result().data["reason"] == "host-qmp-system-reset"

    def test_matches_items_of_the_data(self, readonly_vm: VirtualMachine) -> None:
        # Jobs report each change of their status; these have nothing else to do.
        folder = readonly_vm.console.log_path.parent
        for name in ("first", "second"):
            options = {"driver": "file", "filename": str(folder / name), "size": 512}
            readonly_vm.qmp.execute("blockdev-create", job_id=name, options=options)
        done = readonly_vm.qmp.wait_event("JOB_STATUS_CHANGE", {"id": "second", "status": "concluded"})
        assert done.data == {"id": "second", "status": "concluded"}
        assert readonly_vm.qmp.wait_event("JOB_STATUS_CHANGE", {"id": "first", "status": "concluded"})
        assert readonly_vm.qmp.wait_event("JOB_STATUS_CHANGE", {"id": "second"}).data["status"] == "created"
        with pytest.raises(WaitTimeout):
            readonly_vm.qmp.wait_event("JOB_STATUS_CHANGE", {"id": "first", "absent": None}, timeout=0.05)

    def test_matches_by_a_function_of_the_event(self, readonly_vm: VirtualMachine) -> None:
        stop_and_go(readonly_vm, times=3)
        second = sorted(event.number for event in readonly_vm.qmp.events if event.name == "STOP")[1]
        assert readonly_vm.qmp.wait_event("STOP", lambda event: event.number == second).number == second
        assert readonly_vm.qmp.wait_event("STOP").number < second

    def test_passes_on_what_a_match_function_raises(self, readonly_vm: VirtualMachine) -> None:
        stop_and_go(readonly_vm)
        with pytest.raises(ZeroDivisionError):
            readonly_vm.qmp.wait_event("STOP", lambda event: bool(1 // 0))
        assert readonly_vm.qmp.wait_event("STOP")

    def test_refuses_a_blocking_call_in_a_match_function_instead_of_hanging(self, readonly_vm: VirtualMachine) -> None:
        def ask(event: QmpEvent) -> bool:
            return bool(readonly_vm.qmp.execute("query-status"))

        stop_and_go(readonly_vm)
        with pytest.raises(RuntimeError, match="cannot make blocking calls"):
            readonly_vm.qmp.wait_event("STOP", ask)
        assert readonly_vm.qmp.execute("query-status")["running"]

    def test_times_out_with_the_events_that_did_come(self, readonly_vm: VirtualMachine) -> None:
        stop_and_go(readonly_vm)
        with pytest.raises(WaitTimeout, match=r"no event POWERDOWN came within 0\.1 s") as timeout:
            readonly_vm.qmp.wait_event("POWERDOWN", timeout=0.1)
        assert isinstance(timeout.value, TimeoutError)
        assert re.search(r"Events so far: .*STOP, RESUME", "\n".join(timeout.value.__notes__))

    @HOWEVER_IT_CAME_TO_BE
    def test_loses_no_event_that_comes_in_the_moment_of_a_deadline(self, readonly_vm: VirtualMachine) -> None:
        deadlines = itertools.cycle(number / 10_000 for number in range(1, 40))

        def first_within(patience: float) -> QmpEvent | None:
            end = time.monotonic() + patience
            while time.monotonic() < end:
                with contextlib.suppress(WaitTimeout):
                    return readonly_vm.qmp.wait_event("STOP", timeout=next(deadlines))
            return None

        with ThreadPoolExecutor(1) as threads:
            for _ in range(300):
                wait = threads.submit(first_within, GENEROUS)
                stop_and_go(readonly_vm)
                assert wait.result(), "an event came, and no wait returned it"

    def test_forgets_what_it_is_told_to(self, readonly_vm: VirtualMachine) -> None:
        stop_and_go(readonly_vm)
        readonly_vm.qmp.forget_events()
        with pytest.raises(WaitTimeout):
            readonly_vm.qmp.wait_event("STOP", timeout=0.05)
        names = [event.name for event in readonly_vm.qmp.events]
        assert [name for name in names if name != "VSERPORT_CHANGE"][-2:] == ["STOP", "RESUME"]  # which may come late
        stop_and_go(readonly_vm)
        assert readonly_vm.qmp.wait_event("STOP")


class TestTheEndOfQemu:
    def test_wakes_all_waiters_at_once_and_names_the_signal(self, readonly_vm: VirtualMachine) -> None:
        waiting = threading.Barrier(WAITERS + 1)

        def wait() -> GuestDied:
            waiting.wait(GENEROUS)
            with pytest.raises(GuestDied) as death:
                readonly_vm.qmp.wait_event("NEVER", timeout=10 * GENEROUS)
            return death.value

        with ThreadPoolExecutor(WAITERS) as threads:
            waits = [threads.submit(wait) for _ in range(WAITERS)]
            waiting.wait(GENEROUS)
            os.kill(readonly_vm.pid, signal.SIGSEGV)
            deaths = [wait.result(GENEROUS) for wait in waits]
        assert {str(death) for death in deaths} == {f"{readonly_vm.name}: QEMU was killed by SIGSEGV"}
        notes = "\n".join(deaths[0].__notes__)
        assert "The console has said nothing new." in notes  # since the test has the machine
        assert "Command line: " not in notes

    def test_wakes_who_waits_for_an_answer(self, readonly_vm: VirtualMachine) -> None:
        os.kill(readonly_vm.pid, signal.SIGSTOP)
        with ThreadPoolExecutor(1) as threads:
            wait = threads.submit(readonly_vm.qmp.execute, "query-status", timeout=10 * GENEROUS)
            os.kill(readonly_vm.pid, signal.SIGKILL)
            with pytest.raises(GuestDied, match="QEMU was killed by SIGKILL"):
                wait.result(GENEROUS)

    def test_is_what_later_calls_report_as_well(self, readonly_vm: VirtualMachine) -> None:
        readonly_vm.kill()
        assert not readonly_vm.is_running()
        for _ in range(2):
            with pytest.raises(GuestDied, match="QEMU was killed by SIGKILL"):
                readonly_vm.qmp.execute("query-status")
            with pytest.raises(GuestDied, match="QEMU was killed by SIGKILL"):
                readonly_vm.qmp.wait_event("STOP")

    def test_may_be_asked_for_by_the_test(self, readonly_vm: VirtualMachine) -> None:
        assert readonly_vm.qmp.execute("quit") == {}
        with pytest.raises(GuestDied, match="QEMU exited with status 0"):
            readonly_vm.qmp.wait_event("NEVER", timeout=GENEROUS)
        readonly_vm.close()

    def test_leaves_its_last_events_to_be_found(self, readonly_vm: VirtualMachine) -> None:
        readonly_vm.qmp.execute("quit")
        assert readonly_vm.qmp.wait_event("SHUTDOWN", {"reason": "host-qmp-quit"}).data["guest"] is False

    @HOWEVER_IT_CAME_TO_BE
    def test_is_told_from_the_end_of_the_connection(self, readonly_vm: VirtualMachine) -> None:
        with pytest.raises(ConnectionLost, match="the connection to QEMU's monitor broke"):
            readonly_vm.qmp.execute("yank", instances=[{"type": "chardev", "id": "monitor"}])
        assert readonly_vm.is_running()
        readonly_vm.close()
        assert not readonly_vm.is_running()


class TestSecondMonitor:
    @pytest.fixture
    def vm_monitor(self) -> bool:
        return True

    @HOWEVER_IT_CAME_TO_BE
    def test_answers_the_printed_command(self, readonly_vm: VirtualMachine) -> None:
        command = shlex.split(readonly_vm.monitor_command or "")
        assert command[:2] == ["qmp-shell", "-H"]
        for line, answer in (("info status", "VM status: running"), ("info name", readonly_vm.name)):
            done = subprocess.run(
                [str(Path(sys.executable).with_name("qmp-shell")), *command[1:]],
                input=f"{line}\n",
                capture_output=True,
                text=True,
                timeout=GENEROUS,
                check=False,
            )
            assert answer in done.stdout, done.stdout + done.stderr
        assert readonly_vm.qmp.execute("query-status")["running"]

    def test_goes_with_the_machine(self, boot: Callable[..., VirtualMachine]) -> None:
        machine = boot("hello", monitor=True)
        socket = Path(shlex.split(machine.monitor_command or "")[-1])
        assert socket.is_socket()
        machine.close()
        assert not socket.exists()

    def test_is_not_there_unless_asked_for(self, boot: Callable[..., VirtualMachine]) -> None:
        machine = boot("hello")
        assert machine.monitor_command is None
