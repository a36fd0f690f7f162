"""Testinfra's `host` is the machine of the module: what Testinfra wants to know, the plugin runs in the guest."""

import pytest
from testinfra.backend.base import BaseBackend
from testinfra.host import Host


class ReadonlyVmBackend(BaseBackend):
    """Runs Testinfra's commands over the machine's channel."""

    NAME = "readonly-vm"

    def __init__(self, vm, **settings):
        super().__init__(vm.name, **settings)
        self._vm = vm

    def run(self, command, *args, **_):
        command = self.get_command(command, *args)
        result = self._vm.run(command, check=False)
        return self.result(result.exit_code, self.encode(command), result.stdout_bytes, result.stderr_bytes)

    def get_encoding(self):
        return "UTF-8"


def testinfra_host(vm):
    """A `host` for a machine. Made anew for each, as Testinfra's own are kept by address and would outlive theirs."""
    backend = ReadonlyVmBackend(vm)
    host = Host(backend)
    backend.set_host(host)
    return host


@pytest.fixture(scope="module")
def host(readonly_vm_module):
    """Takes the place of Testinfra's fixture. For a fresh machine per test, use `readonly_vm` and no scope."""
    return testinfra_host(readonly_vm_module)
