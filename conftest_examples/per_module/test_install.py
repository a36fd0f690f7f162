"""One machine for all tests of a module: a boot is paid for once, and the tests build on each other."""

import pytest

pytestmark = pytest.mark.vm(memory="768M")  # on a module, a marker counts for the machine that its tests share


def test_memory(readonly_vm_module):
    assert readonly_vm_module.qmp.execute("query-memory-size-summary")["base-memory"] == 768 << 20


def test_install(readonly_vm_module):
    readonly_vm_module.run("mkdir /srv/shop && echo open > /srv/shop/state")


def test_use_what_was_installed(readonly_vm_module):
    assert readonly_vm_module.read_text("/srv/shop/state") == "open\n"
