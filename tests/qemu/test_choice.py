"""The first channel that answers is taken, and the one that a base had before if it is not much later."""

import asyncio
from collections.abc import Callable

import pytest

from pytest_readonly_vm import ChannelError, GuestDied, VirtualMachine
from pytest_readonly_vm.channels.agent import Agent
from pytest_readonly_vm.channels.choice import ChannelChoice


class Answering(Agent):
    """A channel that answers when it is told to."""

    def __init__(self, name: str, delay: float | None) -> None:
        self.name = name
        self._delay = delay

    async def open(self) -> None:
        if self._delay is None:
            raise ChannelError("refused")
        await asyncio.sleep(self._delay)

    def is_open(self) -> bool:
        return True

    def why_not(self) -> str:
        return "refused"

    async def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("delays", "usual", "taken"),
    [
        ({"agent": 60.0, "shell": 0.0}, None, "shell"),
        ({"agent": 0.2, "shell": 0.0}, "agent", "agent"),
        ({"agent": 60.0, "shell": 0.0}, "agent", "shell"),
        ({"agent": None, "shell": 0.1}, "agent", "shell"),
        ({"agent": 0.0, "shell": 0.0}, "ssh", "agent"),
    ],
)
def test_which_is_taken(
    boot: Callable[..., VirtualMachine], delays: dict[str, float | None], usual: str | None, taken: str
) -> None:
    machine = boot("hello")
    channels = {name: Answering(name, delay) for name, delay in delays.items()}
    choice = ChannelChoice(channels, machine.instance.process, machine.console, "guest", usual=usual)
    assert machine.loop.run(choice.channel(10.0)).name == taken


def test_none_is_told_at_once_when_all_refuse(boot: Callable[..., VirtualMachine]) -> None:
    machine = boot("hello")
    choice = ChannelChoice({"agent": Answering("agent", None)}, machine.instance.process, machine.console, "guest")
    with pytest.raises(ChannelError, match="guest: no channel answered: agent: refused"):
        machine.loop.run(choice.channel(10.0))


def test_who_waits_looks_anew_when_another_loses_the_channel(boot: Callable[..., VirtualMachine]) -> None:
    machine = boot("hello")
    choice = ChannelChoice({"shell": Answering("shell", 0.2)}, machine.instance.process, machine.console, "guest")

    async def waits() -> list[str]:
        searches = [asyncio.ensure_future(choice.channel(10.0)) for _ in range(3)]
        await asyncio.sleep(0.1)
        choice.lose()
        return [(await search).name for search in searches]

    assert machine.loop.run(waits()) == ["shell"] * 3


def test_who_waits_when_the_machine_is_closed_is_told(boot: Callable[..., VirtualMachine]) -> None:
    machine = boot("hello")
    choice = ChannelChoice({"shell": Answering("shell", 60.0)}, machine.instance.process, machine.console, "guest")

    async def waits() -> None:
        search = asyncio.ensure_future(choice.channel(10.0))
        await asyncio.sleep(0.05)
        await choice.close()
        await search

    with pytest.raises(GuestDied, match="guest: the machine has been closed"):
        machine.loop.run(waits())
