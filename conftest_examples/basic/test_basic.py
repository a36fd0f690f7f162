"""Each test gets a machine of its own, pristine and booted, and does what it likes in it as root."""


def test_machine_runs(readonly_vm):
    assert readonly_vm.run("uname -s").stdout == "Linux\n"
    assert readonly_vm.qmp.execute("query-status")["status"] == "running"


def test_guest_can_be_changed(readonly_vm):
    readonly_vm.write_text("/root/note", "changed\n")
    assert readonly_vm.run("cat /root/note").stdout == "changed\n"


def test_next_test_does_not_see_it(readonly_vm):
    assert readonly_vm.run("test -e /root/note", check=False).exit_code == 1
