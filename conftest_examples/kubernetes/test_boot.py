def test_the_guest_boots(readonly_vm):
    assert readonly_vm.qmp.execute("query-status")["running"]
