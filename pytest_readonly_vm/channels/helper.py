"""Owns the shell text by which a channel's shell keeps a helper: a program of ours that is started once and then waits
for messages. To pass one on starts no process in the guest, each of which costs an emulated one many milliseconds.
"""

from dataclasses import dataclass

TEXT = 110
"""Bytes of each of the two texts that follow a message: what the helper is to print if it has done it, and if not."""

NONE = 2
"""The status that is told of a message if there is no helper."""

_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/ .,:;@_+=")

# One that has ended, and that the shell has not waited for yet, is a process still, but has no program.
# A FIFO that is open for both does not end, and takes a message also when nobody is there to read it. The helper has it
# from when it is forked on: what is written before somebody has it open is lost.
_KEEP = r"""
_rv_be_helper() {
    exec ./readonly-vm-helper <&4 >&8 3</dev/urandom 4>GIVE 7<&- 8>&- 9>&-
}
_rv_has_helper() {
    [ "$_rv_helper" ] && [ -e "/proc/$_rv_helper/exe" ]
}
_rv_keep() {
    printf 'PROGRAM' >readonly-vm-helper && chmod 700 readonly-vm-helper || return
    ./readonly-vm-helper </dev/null
    [ $? = IDLE ] && { [ -p helper ] || mkfifo helper; } && exec 4<>helper || return
    _rv_start _rv_be_helper
    _rv_helper=$!
    exec 4<&-
}
_rv_help() {
    _rv_has_helper && TAKE && printf "$2DONEFAILED" 1<>helper || _rv_tell "$1" NONE nothing
}
_rv_has_helper || _rv_keep
"""


@dataclass(frozen=True, slots=True)
class Telling:
    """How the shell of a channel tells that what is called ``$1`` has ended, so that its helper can."""

    told: str
    """A format in which ``%d`` is the status. As a text of the helper's it is followed by newlines."""
    take: str
    """What the shell does before, so that nobody else tells something at the same time."""
    give: str
    """To what the helper writes a byte afterwards, so that others can."""

    def text(self, status: int) -> str:
        told = self.told % status
        size = len(told.replace("$1", 32 * "N").replace(r"\n", "\n"))
        assert size <= TEXT
        return told + (TEXT - size) * r"\n"


class NoHelper:
    """A part of a `Channel` that has none, as no copy of the guest has its conversation."""

    async def keep_helper(self, program: bytes, *, idle: int, trial: bytes) -> None:
        """Nothing, as that is not possible."""

    async def ask_helper(self, message: bytes) -> bool:
        return False


def keeping(program: bytes, *, idle: int, telling: Telling) -> bytes:
    """Text that starts a helper in the shell of a channel, unless there is one. It is in the place of the `jobs`.

    :param idle: the exit status of a program that has had no message.
    """
    text = _KEEP.replace("IDLE", str(idle)).replace("NONE", str(NONE))
    text = text.replace("TAKE", telling.take).replace("GIVE", telling.give)
    text = text.replace("DONE", telling.text(0)).replace("FAILED", telling.text(1))
    return text.replace("PROGRAM", as_format(program)).encode()


def asking(nonce: str, message: bytes) -> bytes:
    """A line by which that shell passes a message on, and the nonce is told of. It may come in pieces."""
    return f"_rv_help {nonce} '{as_format(message)}'\n".encode()


def as_format(data: bytes) -> str:
    """The format for which ``printf`` prints these bytes."""
    return "".join(chr(byte) if byte in _PLAIN else f"\\{byte:03o}" for byte in data)
