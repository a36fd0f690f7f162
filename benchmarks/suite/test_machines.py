"""Three tests that do nothing: without a machine, with one of the plugin's, with the same one from a shell."""

import os

from benchmarks import guests, shell
from pytest_readonly_vm import VirtualMachine


def test_nothing(number: int) -> None:
    pass


def test_plugin(number: int, readonly_vm: VirtualMachine) -> None:
    pass


def test_shell(number: int) -> None:
    shell.run(os.environ["BENCHMARK_COMMAND"], guests.READY)
