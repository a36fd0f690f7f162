"""Each test has a machine of its own, in which the shop has been open for a moment."""

import pytest
from states import selling, shop

pytestmark = pytest.mark.vm(layers=[shop, selling("apples", "pears", price=2)])


def test_what_is_sold(readonly_vm, visit):
    assert visit(readonly_vm, "apples") == "apples: 2 EUR\n"
    assert visit(readonly_vm, "pears") == "pears: 2 EUR\n"


def test_sold_out(readonly_vm, visit):
    readonly_vm.run("rm /srv/shop/*")
    assert visit(readonly_vm, "apples") is None


def test_apples_are_there_again(readonly_vm, visit):
    assert visit(readonly_vm, "apples") == "apples: 2 EUR\n"


def test_server_comes_back_after_a_crash(readonly_vm, visit):
    before = readonly_vm.run("systemctl show --property=MainPID shop").stdout
    readonly_vm.run("systemctl kill --signal=KILL shop")
    readonly_vm.wait_until_succeeds("systemctl is-active shop")
    readonly_vm.wait_for_port(8080)
    assert readonly_vm.run("systemctl show --property=MainPID shop").stdout != before
    assert visit(readonly_vm, "pears")


@pytest.mark.vm(layers=[shop, selling("plums")])
def test_another_shop(readonly_vm, visit):
    assert visit(readonly_vm, "plums") == "plums: 1 EUR\n"
    assert visit(readonly_vm, "apples") is None


@pytest.mark.vm(layers=[])
def test_before_there_was_a_shop(readonly_vm):
    assert readonly_vm.run("id shop", check=False).exit_code != 0
