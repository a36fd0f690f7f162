"""Tests that do not mind on which host they run: each has a machine of its own there."""

import pytest


@pytest.mark.parametrize("number", range(4))
def test_each_has_a_machine_of_its_own(readonly_vm, number):
    assert readonly_vm.run("test ! -e /mark && touch /mark").exit_code == 0


def test_a_file_of_the_checkout_goes_to_the_guest(readonly_vm, request):
    readonly_vm.push(request.path, "/tmp/test.py")
    assert request.node.name in readonly_vm.run("cat /tmp/test.py").stdout
