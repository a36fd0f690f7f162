"""What is frozen is sealed, also when something has pages of it in hand for a moment: with the kernel itself."""

import errno
import mmap
import os
import threading
from collections.abc import Iterator

import pytest

from pytest_readonly_vm.start import template


@pytest.fixture
def memory() -> Iterator[int]:
    descriptor = template.new_ram(1 << 16)
    yield descriptor
    os.close(descriptor)


def test_memory_that_is_mapped_for_a_moment_is_sealed_afterwards(memory: int) -> None:
    mapped = mmap.mmap(memory, 1 << 16)
    threading.Timer(0.3, mapped.close).start()
    template.seal(memory)
    with pytest.raises(PermissionError):
        os.pwrite(memory, b"changed", 0)


def test_memory_that_stays_in_use_is_not_waited_for_without_end(memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template, "_SEAL_PATIENCE", 0.1)
    with mmap.mmap(memory, 1 << 16), pytest.raises(OSError) as refusal:  # noqa: PT011
        template.seal(memory)
    assert refusal.value.errno == errno.EBUSY


def test_another_refusal_is_told_at_once(memory: int) -> None:
    template.seal(memory)
    with pytest.raises(PermissionError):  # it is sealed against seals
        template.seal(memory)
