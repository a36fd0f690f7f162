def test_another_module_has_another_machine(readonly_vm_module):
    assert readonly_vm_module.run("ls /srv").stdout == ""
