"""Async tests: several commands in the guest at once, and an event that one of them causes."""

import asyncio

import pytest

pytestmark = pytest.mark.asyncio


async def test_commands_at_once(readonly_vm):
    results = await asyncio.gather(*(readonly_vm.arun(f"sleep 0.2; echo {number}") for number in range(5)))
    assert [result.stdout for result in results] == [f"{number}\n" for number in range(5)]


async def test_a_cancelled_command_is_killed(readonly_vm):
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await readonly_vm.arun("sleep 4242")
    assert "4242" not in (await readonly_vm.arun("cat /proc/[0-9]*/cmdline | tr '\\0' ' '", check=False)).stdout
