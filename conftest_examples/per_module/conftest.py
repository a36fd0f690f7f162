"""One machine for all tests of a module: a boot is paid for once, and the tests build on each other."""

import pytest

from pytest_readonly_vm import Console, VirtualMachine


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("guest_password", "root's password in the guest")


@pytest.fixture(scope="module")
def console(readonly_vm_module: VirtualMachine, pytestconfig: pytest.Config) -> Console:
    """The serial console of the module's machine, root logged in."""
    console = readonly_vm_module.console
    console.send("root\n")
    console.expect("Password: ")
    console.send(pytestconfig.getini("guest_password") + "\n")
    console.expect(r"[#$] $")
    return console
