import pytest


def test_boots(readonly_vm):
    """The machine would not be here if its guest had not become ready."""
    assert readonly_vm.qmp.execute("query-status")["running"]


@pytest.mark.vm(start="cold")
def test_reads_its_disk_when_it_boots(readonly_vm):
    """A copy of a machine that has booted may have read nothing yet."""
    [disk] = readonly_vm.qmp.execute("query-blockstats")
    assert disk["stats"]["rd_bytes"] > 0
