"""One machine for all tests of a module: a boot is paid for once, and the tests build on each other."""

import pytest

# On a module, a marker counts for the machine that its tests share: if one of them fails, its disk is kept.
pytestmark = pytest.mark.vm(snapshot="overlay", keep="on-failure")


def test_disk_can_be_kept(readonly_vm_module):
    assert readonly_vm_module.overlay.exists()


def test_install(readonly_vm_module):
    readonly_vm_module.run("mkdir /srv/shop && echo open > /srv/shop/state")


def test_use_what_was_installed(readonly_vm_module):
    assert readonly_vm_module.read_text("/srv/shop/state") == "open\n"
