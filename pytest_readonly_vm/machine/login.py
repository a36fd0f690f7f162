"""Owns what is typed at the serial console to get a channel: a login if one is set, then what starts the shell."""

import asyncio
import re

from pytest_readonly_vm.channels.console import Console
from pytest_readonly_vm.config import VmConfig
from pytest_readonly_vm.machine.access import Access
from pytest_readonly_vm.machine.provision import BOOTSTRAP

_LOGIN = re.compile(r"login: *$")
_PASSWORD = re.compile(r"[Pp]assword: *$")
_ROOT_PROMPT = re.compile(r"# *$")
_USER_PROMPT = re.compile(r"\$ *$")
_QUIET = 0.5
"""Seconds without news after which a last line that looks like a prompt is one."""


class Login:
    """Answers the prompts of one machine's console until a channel answers. For the loop."""

    def __init__(self, config: VmConfig, console: Console, access: Access) -> None:
        self._name = config.login
        self._password = config.password
        self._console = console
        self._access = access
        self.refusal: str | None = None
        """Why it did not work, once that is known."""

    async def run(self) -> None:
        """Type, each thing once. Returns when there is nothing left to do."""
        while self._access.found is None:
            line = await self._prompt()
            if _ROOT_PROMPT.search(line):
                await self._type(BOOTSTRAP)
                return
            if _USER_PROMPT.search(line):
                self.refusal = f"the console has the shell of an ordinary user ({line.strip()}); root is needed"
                return
            if _LOGIN.search(line) and self._name is not None:
                await self._log_in()
                return

    async def _log_in(self) -> None:
        await self._type(self._name or "")
        line = await self._prompt()
        if _PASSWORD.search(line):
            if self._password is None:
                self.refusal = f"the login of {self._name} needs a password, and there is no setting password"
                return
            await self._type(self._password)
            line = await self._prompt()
        if _ROOT_PROMPT.search(line):
            await self._type(BOOTSTRAP)
        else:
            self.refusal = f"the login of {self._name} was refused, or it is not root: {line.strip()}"

    async def _type(self, text: str) -> None:
        await self._console.typed(f"{text}\n".encode())

    async def _prompt(self) -> str:
        """Wait until the console stands still behind something that asks for an answer: that line."""
        while True:
            news = self._console.next_news()
            line = self._console.last_line()
            if any(pattern.search(line) for pattern in (_LOGIN, _PASSWORD, _ROOT_PROMPT, _USER_PROMPT)):
                try:
                    async with asyncio.timeout(_QUIET):
                        await news.wait()
                except TimeoutError:
                    return line
            else:
                await news.wait()
