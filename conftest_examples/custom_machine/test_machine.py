import pytest


def memory(vm):
    return vm.qmp.execute("query-memory-size-summary")["base-memory"]


def test_chipset_and_disks(readonly_vm):
    assert "q35" in readonly_vm.qmp.execute("qom-get", path="/machine", property="type")
    assert {disk["device"] for disk in readonly_vm.qmp.execute("query-block")} >= {"disk0", "data"}


@pytest.mark.vm(memory="96M", cpus=2)
def test_marker_changes_one_test(readonly_vm):
    assert memory(readonly_vm) == 96 << 20
    assert len(readonly_vm.qmp.execute("query-cpus-fast")) == 2


@pytest.mark.parametrize("vm_cpus", [1, 3])
def test_parameters_are_settings_too(readonly_vm, vm_cpus):
    assert len(readonly_vm.qmp.execute("query-cpus-fast")) == vm_cpus


def test_two_machines(readonly_vm_factory):
    server = readonly_vm_factory(name="server", memory="128M")
    client = readonly_vm_factory(name="client", memory="64M")
    assert (memory(server), memory(client)) == (128 << 20, 64 << 20)
