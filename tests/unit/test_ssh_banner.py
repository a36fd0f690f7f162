"""The wait for a guest's sshd, over the loopback, in all that a guest that boots, or a busy one, answers."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from pytest_readonly_vm.channels import ssh_banner

Answer = Callable[[int, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(autouse=True)
def sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh_banner, "_FIRST_PATIENCE", 0.02)


def wait(answer: Answer) -> tuple[int, list[str]]:
    """How many attempts there were until the wait was over, and what was noted; `answer` gets the number of each."""
    reasons: list[str] = []
    connections: list[asyncio.StreamWriter] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        await answer(len(connections), writer)

    async def run() -> None:
        async with await asyncio.start_server(connected, "127.0.0.1", 0) as server:
            host, port = server.sockets[0].getsockname()
            await ssh_banner.wait_for_banner(host, port, reasons.append)
            for writer in connections:
                writer.close()

    asyncio.run(asyncio.wait_for(run(), 60))
    return len(connections), reasons


def test_refusals_are_noted_until_it_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh_banner, "_FIRST_PATIENCE", 60.0)  # each has its answer

    async def answer(number: int, writer: asyncio.StreamWriter) -> None:
        writer.write({1: b"", 2: b"220 mail\r\n"}.get(number, b"SSH-2.0-OpenSSH_9.2\r\n"))
        writer.close()

    attempts, reasons = wait(answer)
    assert attempts == 3
    assert reasons == ["connection refused (is sshd installed?)", "no banner of an sshd"]


def test_one_that_takes_long_to_speak_is_not_given_up_for_others() -> None:
    seventh = asyncio.Event()

    async def answer(number: int, writer: asyncio.StreamWriter) -> None:
        if number == 7:
            seventh.set()
        if number == 1:
            await seventh.wait()
            writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")

    attempts, reasons = wait(answer)
    assert attempts in (7, 8)
    assert set(reasons) == {"no banner (is the guest's network up?)"}


def test_no_more_than_eight_are_kept_waiting_and_the_place_of_one_that_fails_is_free() -> None:
    free = asyncio.Event()
    early: list[int] = []

    async def answer(number: int, writer: asyncio.StreamWriter) -> None:
        if number == 8:
            await asyncio.sleep(0.3)  # in which there would be more
            free.set()
            writer.close()
        if number > 8:
            early.extend([] if free.is_set() else [number])
            writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")

    attempts, _ = wait(answer)
    assert attempts == 9
    assert early == []
