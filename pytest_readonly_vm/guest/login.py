"""Owns what is typed at the serial console to get a channel: a login if one is set, then what starts the shell."""

import asyncio
from collections.abc import Set

from pytest_readonly_vm.channels.choice import ChannelChoice
from pytest_readonly_vm.channels.console import Console
from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.errors import ChannelError
from pytest_readonly_vm.guest.prompts import Asked, Prompts, last_line, refusal
from pytest_readonly_vm.printable import shown
from pytest_readonly_vm.qemu.provision import BOOTSTRAP

_QUIET = 0.3
"""Seconds without news after which what looks like a prompt is one, and what is typed has not been echoed."""

_LONG_QUIET = 2.0
"""Seconds without news after which the prompt that a password must lead to is taken to be hidden below other text."""

_LOOKED_BACK = 4096  # characters
_TRIES = 3
_PROBE = b"x\x15"
"""A letter, and what takes it back: ^U, which empties a line that has not been sent, see termios(3)."""


_FIRST = frozenset({Asked.NAME, Asked.ROOT, Asked.USER})
_AFTER_NAME = _FIRST | {Asked.PASSWORD, Asked.QUESTION}
_AFTER_PASSWORD = _FIRST | {Asked.PASSWORD}


def login(config: VmConfig, console: Console, channels: ChannelChoice, name: str, *, since: int = 0) -> "Login | None":
    """What answers the prompts that a console shows from a position on, where that may lead to a channel."""
    is_wanted = config.channel in ("auto", "shell") and (config.provision != "none" or config.login is not None)
    return Login(config, console, channels, name, since) if is_wanted else None


class Login:
    """Answers the prompts of one machine's console until a channel answers. For the loop."""

    def __init__(self, config: VmConfig, console: Console, channels: ChannelChoice, name: str, since: int) -> None:
        self._config = config
        self._prompts = Prompts.of(config)
        self._console = console
        self._channels = channels
        self._machine = name
        self._mark = since
        """Where on the console the answer to what was typed last begins."""
        self._nudges = _TRIES
        self.refusal: str | None = None
        """Why it did not work, or has not yet."""

    async def run(self) -> None:
        """Type. Returns when there is nothing left to do.

        :raises ChannelError: the guest refuses the login that is set.
        """
        user = self._config.login
        for _ in range(_TRIES):  # a getty that begins anew, as its line or the kernel makes it do, forgets what it read
            while (asked := await self._asked(_FIRST)) is Asked.NAME and user is None:
                await self._console.next_news().wait()
            if self._channels.found is not None:
                return
            if asked is Asked.NAME:
                await self._type(user or "")
                self.refusal = f"{user} was typed, and no prompt is recognised since (see password_prompt)"
                asked = await self._asked(_AFTER_NAME)
                if asked is Asked.QUESTION and not await self._is_dark():
                    asked = await self._asked(_AFTER_NAME - {Asked.QUESTION})
                if asked in (Asked.PASSWORD, Asked.QUESTION):
                    await self._give_password()
                    asked = await self._asked(_AFTER_PASSWORD)
                    if asked in (Asked.NAME, Asked.PASSWORD):
                        raise self._refused(f"was refused: {self._line()}")
            if asked is Asked.ROOT:
                await self._type(BOOTSTRAP)
                self.refusal = None
                return
            if asked is Asked.USER:
                where = f"the shell of an ordinary user ({self._line()}); root is needed"
                if user is not None:
                    raise self._refused(f"leads to {where}")
                self.refusal = f"the console has {where}"
                return
        self.refusal = f"a login prompt came again each time that {user} was typed"

    async def _asked(self, expected: Set[Asked]) -> Asked:
        """Wait until the console stands still at a prompt for one of these."""
        while True:
            news = self._console.next_news()
            text = self._console.since(max(self._mark, self._console.position - _LOOKED_BACK))
            if expected is not _FIRST and (words := refusal(text)):
                raise self._refused(f"was refused: {words}")
            asked = self._prompts.asked(text)
            if asked is Asked.QUESTION and "\n" not in text:
                asked = None  # the echo of what was typed
            if asked is Asked.COVERED_NAME and expected is not _AFTER_PASSWORD:
                asked = Asked.NAME  # whoever reads a line there does not mind what was printed upon the prompt
            if asked in expected:
                patience = _QUIET
            elif expected is _AFTER_PASSWORD and text and self._nudges:
                patience = _LONG_QUIET
            else:
                await news.wait()
                continue
            try:
                async with asyncio.timeout(patience):
                    await news.wait()
            except TimeoutError:
                if asked in expected:
                    assert asked is not None
                    return asked
                self._nudges -= 1
                await self._type("")  # a prompt that is hidden by other text is shown anew

    async def _is_dark(self) -> bool:
        """Whether what is typed now is not shown, as it is where a password is asked for, in whatever language."""
        question, here = self._line(), self._console.position
        await self._console.typed(_PROBE)
        await asyncio.sleep(_QUIET)
        if not self._console.since(here):
            return True
        self.refusal = f"{question!r} may ask for the password, which would have been shown (see password_prompt)"
        return False

    async def _give_password(self) -> None:
        password = self._config.password
        if password is None:
            raise self._refused(f"needs a password ({self._line()}), and there is no setting password")
        await self._type(password)
        self.refusal = "the password was typed, and no shell's prompt is recognised since"

    async def _type(self, text: str) -> None:
        self._mark = self._console.position
        await self._console.typed(f"{text}\n".encode())

    def _line(self) -> str:
        """The line at which the console stands."""
        return shown(last_line(self._console.since(self._mark))).strip()

    def _refused(self, why: str) -> ChannelError:
        self.refusal = f"the login of {self._config.login} {why}"
        error = ChannelError(f"{self._machine}: {self.refusal}")
        origins = " and ".join(f"{name} from {self._config.origin(name)}" for name in ("login", "password"))
        error.add_note(f"It was tried at the serial console, with {origins}.")
        return error
