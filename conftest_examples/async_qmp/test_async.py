import asyncio


async def test_command(readonly_vm):
    status = await readonly_vm.qmp.aexecute("query-status")
    assert status["running"]


async def test_event_and_command_together(readonly_vm):
    stopped = asyncio.create_task(readonly_vm.qmp.await_event("STOP"))
    await readonly_vm.qmp.aexecute("stop")
    await asyncio.wait_for(stopped, 30)
    assert (await readonly_vm.qmp.aexecute("query-status"))["status"] == "paused"


async def test_watch_in_the_background(readonly_vm, resets):
    await readonly_vm.qmp.aexecute("system_reset")
    reset = await asyncio.wait_for(resets.get(), 30)
    assert reset.data["guest"] is False


def test_blocking_calls_work_beside(readonly_vm):
    assert readonly_vm.qmp.execute("query-status")["running"]
