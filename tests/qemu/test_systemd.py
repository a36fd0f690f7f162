"""What a guest with systemd is asked for: units that are waited for, and its journal."""

from collections.abc import Mapping

import pytest

from pytest_readonly_vm import UnitFailed, UnitNotFound, VirtualMachine, VmError, WaitTimeout
from tests.qemu.channels import machine_of_each
from tests.qemu.waiting import GENEROUS

vm = machine_of_each(["debian-agent-clone"])  # that others have booted


def test_a_unit_that_cannot_become_active_is_told_at_once(vm: VirtualMachine) -> None:
    with pytest.raises(UnitNotFound, match=r"there is no unit shh\.service in the guest \(did you mean ssh\.s"):
        vm.wait_for_unit("shh.service", timeout=GENEROUS)
    with pytest.raises(UnitNotFound, match=r"'getty@\.service' is no unit: .*neither a valid"):
        vm.wait_for_unit("getty@.service", timeout=GENEROUS)
    with pytest.raises(UnitNotFound, match=r"'ss\*' is no unit: it is a pattern"):
        vm.wait_for_unit("ss*", timeout=GENEROUS)
    vm.run("systemctl mask --runtime blocked.service")
    with pytest.raises(UnitFailed, match=r"the unit blocked is masked; so it will not become active"):
        vm.wait_for_unit("blocked", timeout=GENEROUS)
    with pytest.raises(WaitTimeout, match=r"waited 3 s for the unit srv\.mount") as timeout:
        vm.wait_for_unit("srv.mount", timeout=3)
    assert "Last seen: ActiveState=inactive, SubState=dead" in timeout.value.__notes__


def test_the_journal_is_that_since_the_guest_was_ready(vm: VirtualMachine) -> None:
    vm.run(["logger", "hello there"])
    assert "hello there" in vm.journal()
    assert "qemu-ga" not in vm.journal()  # which notes there what we ask of it
    assert "Linux version" not in vm.journal()
    assert "Linux version" in vm.journal(since="boot")
    with pytest.raises(VmError, match="the journal cannot be read: Failed to parse timestamp: yesteryear"):
        vm.journal(since="yesteryear")


def test_the_journal_of_a_unit_is_that_alone(vm: VirtualMachine) -> None:
    vm.run(["logger", "somebody else"])
    vm.run("systemd-run --unit=talker sh -c 'echo it talks; sleep 1000'")
    vm.wait_for_log("it talks", "talker")
    assert "it talks" in vm.journal("talker")
    assert "somebody else" not in vm.journal("talker")
    with pytest.raises(UnitNotFound, match=r"there is no unit tolker in the guest \(did you mean talker\.service\?\)"):
        vm.journal("tolker")
    vm.write_text("/run/systemd/system/called.service", "[Service]\nExecStart=echo an alias\n")
    vm.run("ln -s called.service /run/systemd/system/alias.service; systemctl daemon-reload; systemctl start alias")
    assert vm.wait_for_log("an alias$", "alias")
    assert "an alias\n" in vm.journal("alias")


def test_a_line_of_the_journal_is_waited_for_and_found_once(vm: VirtualMachine) -> None:
    starts = "systemd-run --unit=later sh -c 'sleep .5; echo listens on port 8080; sleep 1000'"
    vm.run(starts)
    match = vm.wait_for_log(r"listens on port (\d+)$", "later", GENEROUS)
    assert match[1] == "8080"
    assert "sh[" in match.string
    with pytest.raises(
        WaitTimeout, match=r"the journal of the unit later did not show '\^never' within 1 s"
    ) as timeout:
        vm.wait_for_log("^never", unit="later", timeout=1)
    assert timeout.value.__notes__ == [
        "Its last lines after the line that was found last:\nnone, or the guest did not answer"
    ]
    vm.run(f"systemctl stop later; {starts}")
    assert vm.wait_for_log(r"listens on port (\d+)$", "later", GENEROUS).string > match.string
    with pytest.raises(WaitTimeout) as timeout:
        vm.wait_for_log("^never", timeout=3)
    assert "Its last lines since the guest was ready:\n" in timeout.value.__notes__[0]
    assert "listens on port 8080" in timeout.value.__notes__[0]
    assert vm.run("ps -e -o args | grep -c '[-]-follow'", check=False).stdout == "0\n"


def test_the_failure_of_its_unit_ends_the_wait_for_a_line(vm: VirtualMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = vm._units.state
    states: list[Mapping[str, str]] = []

    async def state_before_the_end(unit: str) -> Mapping[str, str]:
        states.append(await ask(unit))
        if states[1:] == []:  # and by the time it is known it is no longer true
            await vm.commands.run("touch /run/end; while systemctl is-active --quiet fails; do sleep .1; done")
        return states[-1]

    monkeypatch.setattr(vm._units, "state", state_before_the_end)
    vm.run("systemd-run --unit=fails sh -c 'while ! [ -e /run/end ]; do sleep .1; done; echo no config; exit 7'")
    with pytest.raises(
        UnitFailed, match=r"the unit fails failed \(exit code 7\), last said: no config.*; it has not logged 'listens'"
    ) as failed:
        vm.wait_for_log("listens", "fails", GENEROUS)
    assert [state["ActiveState"] for state in states] == ["active", "failed"]
    assert "no config" in failed.value.__notes__[0]
    assert vm.wait_for_log("no config", "fails")
    with pytest.raises(UnitNotFound, match="there is no unit nothing-like-it"):
        vm.wait_for_log("listens", "nothing-like-it", GENEROUS)
