"""Owns the reading of a regular expression that a test gives. Pure."""

import re


def compiled(pattern: str | re.Pattern[str], flags: int = 0) -> re.Pattern[str]:
    """A regular expression; a text is compiled with these flags.

    :raises re.error: it is none. No frame of the compiler is shown, whose source is hundreds of lines.
    """
    __tracebackhide__ = True
    if isinstance(pattern, re.Pattern):
        return pattern
    try:
        return re.compile(pattern, flags)
    except re.error as error:
        raise re.error(error.msg, error.pattern, error.pos) from None
