"""Owns what is shown of a kernel's last words: what happened, in which program, where in the kernel. Pure.

A trace of Linux's goes on with 50 lines of registers and of who called whom; its head is what tells one panic from
another. The words are those of the kernel's sources: ``lib/dump_stack.c``, ``arch/x86/kernel/dumpstack.c``, and their
like for other processors.
"""

import re
from collections.abc import Iterator, Sequence

from pytest_readonly_vm.channels.panic import is_panic
from pytest_readonly_vm.printable import tail

_LOOKED_AT = 200
"""Lines: an oops and the panic that it leads to are some 120."""

_OOPS = re.compile(
    r"BUG: |Oops|kernel BUG at |general protection fault|Unable to handle kernel|.*\[#\d+\](?: |$)|WARNING: CPU: "
)
_SURVIVED = re.compile(r"---\[ end trace ")  # behind an oops and a warning; the former was perhaps the beginning
_WARNING = re.compile(r"WARNING: CPU: ")
_CULPRIT = re.compile(r"CPU: \d+ .*Comm: ")
_PLACE = re.compile(r"(?:RIP: 0010:|pc : |epc : )")  # that of the kernel, and not of the program that called it
_TRACE = re.compile(r"[Cc]all [Tt]race:")
_CALL = re.compile(r"(?! ?\?) ?[\w.]+\+0x[0-9a-f]+/0x[0-9a-f]+")  # with a question mark it is a guess of the kernel's
_STAMP = re.compile(r"\[ *\d+\.\d+\](?:\[[^\]]*\])? ?")
_BEFORE, _CALLS, _OTHERS = 3, 6, 8


def last_words(text: str, panic: str = "") -> list[str]:
    """The lines to show of what a console has said last, if a kernel's panic is among them; at most about 16.

    :param panic: what the kernel said of it, if that is known: programs may have said the like before.
    """
    lines = tail(text, _LOOKED_AT)
    panics = [number for number, one in enumerate(lines) if is_panic(one)]
    if not panics:
        return []
    meant = [number for number in panics if panic and panic in lines[number]]
    at = meant[-1] if meant else panics[0]
    bare = [one[stamp.end() :] if (stamp := _STAMP.search(one)) else one for one in lines]
    first = next(_troubles(bare, at), at)
    before = [one for one in lines[:first] if one.strip()][-_BEFORE:]
    told = list(_head(bare, first, at))
    if len(told) == 1:  # no kernel that says where it was as Linux does
        told = [number for number in range(at, min(at + _OTHERS, len(lines))) if lines[number].strip()]
    return before + [lines[number] for number in told]


def _troubles(lines: Sequence[str], panic: int) -> Iterator[int]:
    """Where, before a panic, a kernel began to say what has led to it, and not a warning that it has survived."""
    ends = [number for number in range(panic) if _SURVIVED.match(lines[number])]
    for number in range(panic):
        if _OOPS.match(lines[number]) and not (_WARNING.match(lines[number]) and ends and number < ends[-1]):
            yield number


def _head(lines: Sequence[str], first: int, panic: int) -> Iterator[int]:
    """Which lines to show of those that a kernel says from the first of its trouble on."""
    wanted = {_CULPRIT: 1, _PLACE: 1, _TRACE: 1, _CALL: _CALLS}
    for number in range(first, len(lines)):
        if number == panic or (number < panic and _OOPS.match(lines[number])):
            yield number
            continue
        for form, left in wanted.items():
            if left and form.match(lines[number]):
                wanted[form] -= 1
                yield number
                break
