"""Owns the shell text by which a channel's shell keeps a helper: a program of ours that is started once and then waits
for messages. To pass one on starts no process in the guest, each of which costs an emulated one many milliseconds.
"""

PLACES = "/dev/shm /run /tmp /var/tmp /root"
"""Where a program of ours may be executed. Memory first; in a hardened guest all but the last are mounted noexec."""

NONE = 2
"""The status that is told of a message if there is no helper."""

_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/ .,:;@_+=")

# A FIFO that is open for both does not end, and takes a message also when nobody is there to read it. The shell itself
# has it open until the helper is known to have: then no job inherits it.
_KEEP = r"""
_rv_be_helper() {
    exec "$_rv_f" <&4 >&8 3</dev/urandom 4<&- 7<&- 8>&- 9>&-
}
_rv_keep() {
    for _rv_f in PLACES; do
        _rv_f=$_rv_f/.readonly-vm-helper
        printf 'PROGRAM' >"$_rv_f" && chmod 700 "$_rv_f" && { "$_rv_f" </dev/null; [ $? = IDLE ]; } && break
        [ ! -e "$_rv_f" ] || rm -f "$_rv_f"
        _rv_f=
    done
    [ "$_rv_f" ] && { [ -p helper ] || mkfifo helper; } && exec 4<>helper && _rv_start _rv_be_helper && _rv_helper=$!
}
_rv_has_helper() {
    [ "$_rv_helper" ] && kill -0 "$_rv_helper"
}
_rv_help() {
    _rv_has_helper && printf "$2DONEFAILED" 1<>helper || _rv_tell "$1" NONE nothing
}
_rv_hide_helper() {
    exec 4<&-
    [ ! "$_rv_f" ] || rm -f "$_rv_f"
    _rv_tell "$1" 0 nothing
}
_rv_has_helper || _rv_keep
"""


def keeping(program: bytes, *, idle: int, told: str) -> bytes:
    """Text that starts a helper in the shell of a channel, whose functions of `jobs` it knows, unless there is one.

    :param idle: the exit status of a program that has had no message.
    :param told: how it is told that what is called ``$1`` has ended, a format in which ``%d`` is the status.
    """
    text = _KEEP.replace("PLACES", PLACES).replace("IDLE", str(idle)).replace("NONE", str(NONE))
    text = text.replace("DONE", told % 0).replace("FAILED", told % 1)
    return text.replace("PROGRAM", as_format(program)).encode()


def asking(nonce: str, message: bytes) -> bytes:
    """A line by which that shell passes a message on, and the nonce is told of.

    After the message the helper has two texts, of which it is to print the first if it has done what was wanted.
    A FIFO takes them all at once, as they are short.
    """
    return f"_rv_help {nonce} '{as_format(message)}'\n".encode()


def hiding(nonce: str) -> bytes:
    """A line that removes the program's file, once it is known to run, and has the nonce told of."""
    return f"_rv_hide_helper {nonce}\n".encode()


def as_format(data: bytes) -> str:
    """The format for which ``printf`` prints these bytes."""
    return "".join(chr(byte) if byte in _PLAIN else f"\\{byte:03o}" for byte in data)
