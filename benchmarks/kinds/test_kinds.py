"""Sixty tests in five kinds, which differ in their memory: a command in the guest each, then a wait."""

import time

import pytest

from pytest_readonly_vm import VirtualMachine

PAUSE = 0.5
"""Seconds, as tests wait for services."""


class Twelve:
    """What the tests of each kind are."""

    @pytest.mark.parametrize("number", range(12))
    def test_true(self, number: int, readonly_vm: VirtualMachine) -> None:
        readonly_vm.run("true")
        time.sleep(PAUSE)


@pytest.mark.vm(memory="192M")
class TestA(Twelve):
    pass


@pytest.mark.vm(memory="208M")
class TestB(Twelve):
    pass


@pytest.mark.vm(memory="224M")
class TestC(Twelve):
    pass


@pytest.mark.vm(memory="240M")
class TestD(Twelve):
    pass


@pytest.mark.vm(memory="256M")
class TestE(Twelve):
    pass
