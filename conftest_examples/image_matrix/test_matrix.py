def test_boots(readonly_vm):
    """The machine would not be here if its guest had not become ready."""
    assert readonly_vm.qmp.execute("query-status")["running"]


def test_reads_its_disk(readonly_vm):
    [disk] = readonly_vm.qmp.execute("query-blockstats")
    assert disk["stats"]["rd_bytes"] > 0
