"""What a test may say of a fault of a disk, and what QEMU is told."""

from collections.abc import Callable

import pytest

from pytest_readonly_vm import DiskError
from pytest_readonly_vm.disks import faults


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: faults.error("write"), "error('write')"),
        (lambda: faults.error("read", after=3, once=True, guest="pause"), None),
        (lambda: faults.full(after=2, guest="report"), "full(after=2, guest='report')"),
        (lambda: faults.throttle(iops=5, bandwidth="1M"), "throttle(iops=5, bandwidth='1M')"),
    ],
)
def test_a_fault_is_called_as_it_was_made(make: Callable[[], faults.Errors | faults.Limits], words: str | None) -> None:
    assert make().words == (words or "error('read', after=3, once=True, guest='pause')")


def test_requests_are_counted_by_states() -> None:
    options = faults.error("flush", after=2).options
    assert [(one["state"], one["new_state"]) for one in options["set-state"]] == [(1, 2), (2, 3)]
    assert [(one["event"], one["state"]) for one in options["inject-error"]] == [("flush_to_os", 3)]


def test_latency_is_how_many_one_after_another() -> None:
    assert faults.throttle(latency="10ms").limits == {"iops": 100}
    assert faults.throttle(iops=20, latency=0.01).limits == {"iops": 20}
    assert faults.throttle(bandwidth="1M").limits == {"bps": 1 << 20}


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: faults.error("flush", sector=1), "a flush is of the whole disk"),
        (lambda: faults.error("read", sector=[]), "is not one sector"),
        (lambda: faults.error("read", sector=-1), "is not one sector"),
        (lambda: faults.error("read", after=1001), "not between 0 and 1000"),
        (lambda: faults.full(guest="die"), "guest='die' is neither"),
        (lambda: faults.throttle(), "by what"),
        (lambda: faults.throttle(iops=0), "iops=0 is not between"),
        (lambda: faults.throttle(latency="soon"), "is no time"),
        (lambda: faults.throttle(latency=float("nan")), "not between one microsecond"),
        (lambda: faults.throttle(bandwidth="much"), "bandwidth='much'"),
        (lambda: faults.damaged(-1, 1, of=512), "the disk has 512 bytes"),
        (lambda: faults.damaged(0, 2 << 20, of=4 << 20), "more than 1048576"),
    ],
)
def test_what_cannot_be_is_refused(make: Callable[[], object], says: str) -> None:
    with pytest.raises(DiskError, match=says):
        make()
