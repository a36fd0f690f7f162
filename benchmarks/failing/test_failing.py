"""Two tests that do nothing with their machine, of which one fails."""

from pytest_readonly_vm import VirtualMachine


def test_passes(number: int, readonly_vm: VirtualMachine) -> None:
    pass


def test_fails(number: int, readonly_vm: VirtualMachine) -> None:
    raise AssertionError
