"""Each test gets a machine of its own, freshly booted from the same image."""


def test_machine_runs(readonly_vm):
    assert readonly_vm.qmp.execute("query-status")["status"] == "running"
    assert "login:" in readonly_vm.console.text


def test_guest_can_be_changed(shell):
    assert shell.run("echo changed > /root/note && sync").status == 0
    assert shell.run("cat /root/note").output == "changed\n"


def test_next_test_does_not_see_it(shell):
    assert shell.run("test -e /root/note").status == 1
