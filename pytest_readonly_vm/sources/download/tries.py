"""Owns how often something is asked of a server before it is given up, and how long is waited in between."""

import time

from pytest_readonly_vm.config.image_url import shown_url
from pytest_readonly_vm.errors import DownloadError
from pytest_readonly_vm.printable import count

MOST_TRIES = 5
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds; each pause is twice as long as the one before."""


class Interrupted(Exception):
    """The conversation broke in a way that another try may mend. The message continues a sentence about the URL."""

    def __init__(self, reason: str, *, pause: float = 0.0) -> None:
        super().__init__(reason)
        self.pause = pause
        """Seconds for which the server has asked before it is asked again."""


class Tries:
    """The tries at one URL: so many in a row without any progress, and no more."""

    def __init__(self, url: str, *, most: int = MOST_TRIES) -> None:
        self._url = url
        self._most = most
        self._failed = 0

    def progressed(self) -> None:
        """There was progress since the last failure."""
        self._failed = 0

    def wait_after(self, error: Interrupted) -> None:
        """Wait a while before the next try.

        :raises DownloadError: there is none any more.
        """
        self._failed += 1
        if self._failed >= self._most:
            raise DownloadError(
                f"{shown_url(self._url)} {error}, {count(self._most, 'time')} in a row; try again later"
            )
        time.sleep(min(max(FIRST_PAUSE * 2 ** (self._failed - 1), error.pause), LONGEST_PAUSE))
