def test_boots(readonly_vm):
    assert readonly_vm.qmp.execute("query-status")["running"]
    print(f"ready after {readonly_vm.boot_seconds:.1f} s")
