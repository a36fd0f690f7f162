"""Owns whose machines are whose: each belongs to a node of pytest's collection tree, a test or what tests share."""

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_readonly_vm.machine.vm import VirtualMachine

_machines = pytest.StashKey[list["VirtualMachine"]]()


def give(node: pytest.Item | pytest.Collector, vm: "VirtualMachine") -> None:
    """From now on a machine is this node's."""
    node.stash.setdefault(_machines, []).append(vm)


def owned_above(item: pytest.Item) -> "list[tuple[VirtualMachine, Any]]":
    """The machines that a test may share with others, and the nodes that they belong to."""
    return [(vm, node) for node in item.listchain()[:-1] for vm in node.stash.get(_machines, [])]


def machines_above(item: pytest.Item) -> list["VirtualMachine"]:
    """The machines that a test may share with others."""
    return [vm for vm, _ in owned_above(item)]


def machines_of(item: pytest.Item) -> list["VirtualMachine"]:
    """The machines that a test had or shared, whether they still run or not."""
    names = getattr(item, "fixturenames", ())
    used = list(getattr(item, "funcargs", {}).values())
    found = []
    for node in item.listchain()[:-1]:
        scope = type(node).__name__.lower()  # a fixture of the test's may have it, so that the test has not
        for vm in node.stash.get(_machines, []):
            is_meant = f"readonly_vm_{scope}" in names or ("readonly_vm" in names and vm.config.scope == scope)
            if is_meant or any(vm is value for value in used):
                found.append(vm)
    return found + item.stash.get(_machines, [])


def forget_machines(item: pytest.Item) -> None:
    """A test is over, and so are its machines; it may be repeated."""
    item.stash[_machines] = []
