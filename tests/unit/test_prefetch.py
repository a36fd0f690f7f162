"""What becomes of machines that were started before anybody wanted them."""

import threading
from contextlib import closing
from types import SimpleNamespace

import pytest

from pytest_readonly_vm import BaseImageChanged, VmConfig, VmError
from pytest_readonly_vm.start.prefetch import Prefetch


@pytest.mark.parametrize("ends", ["well", "badly"])
def test_one_of_which_it_cannot_be_told_whether_it_is_wanted_ends(ends: str) -> None:
    discarded = []

    def discard(machine: SimpleNamespace) -> None:
        discarded.append(machine)
        if ends == "badly":
            raise VmError("it does not end")

    def is_wanted() -> bool:
        raise BaseImageChanged("it is another")

    machine, begun = SimpleNamespace(is_alive=True), threading.Event()

    def start(config: VmConfig, name: str) -> SimpleNamespace:
        begun.set()
        return machine

    with closing(Prefetch(start, discard)) as prefetch:
        prefetch.expect([(VmConfig(), "next")])
        assert begun.wait(60)
        with pytest.raises(BaseImageChanged, match="it is another"):
            prefetch.take(VmConfig(), "next", is_wanted=is_wanted)
        assert discarded == [machine]
