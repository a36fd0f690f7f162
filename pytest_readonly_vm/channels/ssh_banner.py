"""Owns the wait until a guest's sshd speaks."""

import asyncio
import itertools
from collections.abc import Callable

_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.25
"""Seconds until the next attempt after one that was refused."""
_FIRST_PATIENCE, _LONGEST_PATIENCE = 1.0, 32.0
"""Seconds until the next attempt while the others have no answer."""
_SHORT_ONES = 3
"""Attempts after the first patience; QEMU repeats a request that came too early only after 6 s and more."""
_MOST = 8
"""Attempts at the same time; an sshd turns some away when there are ten."""

_REFUSED = "connection refused (is sshd installed?)"
_SILENT = "no banner (is the guest's network up?)"
_ANOTHER = "no banner of an sshd"


async def wait_for_banner(host: str, port: int, note: Callable[[str], object]) -> None:
    """Return when who listens there has greeted as sshd does.

    An attempt without an answer is not given up for the next one: for each the guest starts a process, and on a busy
    computer it may not get any of them to speak in the time that is enough elsewhere.

    :param note: told why nobody has so far.
    """
    attempts: set[asyncio.Task[bytes]] = set()
    pause = _FIRST_PAUSE
    try:
        for number in itertools.count():
            attempts.add(asyncio.ensure_future(_greeting(host, port)))
            patience = min(_FIRST_PATIENCE * 1.5 ** max(number - _SHORT_ONES, 0), _LONGEST_PATIENCE)
            # With as many as there may be, it goes on when one of them has failed.
            limit = patience if len(attempts) < _MOST else None
            ended, attempts = await asyncio.wait(attempts, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            greetings = [attempt.result() for attempt in ended]
            if any(greeting.startswith(b"SSH-") for greeting in greetings):
                return
            note(_ANOTHER if any(greetings) else _REFUSED if greetings else _SILENT)
            if ended:
                await asyncio.sleep(pause)
                pause = min(pause * 1.5, _LONGEST_PAUSE)
    finally:
        for attempt in attempts:
            attempt.cancel()
        await asyncio.gather(*attempts, return_exceptions=True)


async def _greeting(host: str, port: int) -> bytes:
    """The first line that is said; none is if QEMU has taken the connection, as it does with all, and the guest not."""
    try:
        reader, writer = await asyncio.open_connection(host, port)
    except OSError:
        return b""
    try:
        return await reader.readline()
    except (OSError, ValueError):  # ValueError: a line of more than 64 KiB
        return b""
    finally:
        writer.close()
