import pytest

from pytest_readonly_vm import GuestShutDown


@pytest.mark.vm(health=())  # which a panic would not pass
def test_a_panic_is_written_to_the_console(readonly_vm):
    with readonly_vm.expect_panic() as panic:
        readonly_vm.run("echo c >/proc/sysrq-trigger")
    assert "sysrq" in panic.text
    assert "Call Trace" in readonly_vm.console.text


def test_the_power_button_ends_the_guest_in_good_order(readonly_vm):
    readonly_vm.powerdown()  # which presses again until the guest minds it, and waits for its end
    with pytest.raises(GuestShutDown):
        readonly_vm.run("true")


@pytest.mark.vm(health=("cores",))  # as the unit is to fail here
def test_a_service_that_crashes_is_started_again(readonly_vm):
    start = "systemd-run --unit=doomed --property=Restart=on-failure --property=RestartSec=100ms sleep 1000"
    readonly_vm.run(start)
    readonly_vm.run("systemctl kill --signal=KILL doomed")
    readonly_vm.wait_until_succeeds("test $(systemctl show --property=NRestarts --value doomed) -ge 1")
    readonly_vm.wait_for_unit("doomed")


def test_a_full_disk_is_reported(readonly_vm):
    readonly_vm.run("mkdir -p /mnt/small && mount -t tmpfs -o size=1M none /mnt/small")
    result = readonly_vm.run("dd if=/dev/zero of=/mnt/small/file bs=64k count=100", check=False)
    assert result.exit_code == 1
    assert "No space left on device" in result.stderr
