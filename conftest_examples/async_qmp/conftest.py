"""Notices what the guest does while a test is busy with something else."""

import asyncio

import pytest


@pytest.fixture
async def resets(readonly_vm):
    """A queue into which every reset of the machine goes, from the beginning of the test to its end."""
    queue = asyncio.Queue()

    async def watch():
        while True:
            await queue.put(await readonly_vm.qmp.await_event("RESET", timeout=3600))

    watching = asyncio.create_task(watch())
    yield queue
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
