"""One trivial test, as often as wanted: a command in the guest, then a pause in which the next machine can be made."""

import os
import time

from pytest_readonly_vm import VirtualMachine

PAUSE = float(os.environ.get("BENCHMARK_PAUSE", "0"))


def test_true(number: int, readonly_vm: VirtualMachine) -> None:
    readonly_vm.run("true")
    time.sleep(PAUSE)
