r"""Owns the form in which a shell in the guest tells what a job has printed and how it has ended.

These are frames::

    \nNONCE <\n  what it printed  \nNONCE -\n  what it printed to stderr  \nNONCE STATUS >\n

The nonce is a random number that only this frame has and that the command does not know, so nothing that is printed
can be taken for the end of a frame. Frames do not mix: whoever sends one takes the only byte out of a FIFO first, and
puts it back afterwards. The line in the middle comes twice where the program that was to send it failed.
"""

import asyncio
import re
from dataclasses import dataclass, field

from pytest_readonly_vm.channels.channel import Sink

HEADER = re.compile(rb"([0-9a-f]{32}) <")
END = re.compile(rb"([0-9a-z ]+) >")

# To start a process costs more than most commands. So a short text is read by the shell itself: plain ASCII, of which
# nothing is missing, as a null byte would be.
FUNCTIONS = (
    "\n_rv_settle\n_rv_blank='\t\n'\n"
    r"""mkfifo turn && exec 8>&1 9<>turn && echo >&9 || _rv_room=
_rv_text() {
    _rv_t=
    [ -s "$1" ] || return 0
    [ "${2:-0}" -gt 0 ] && [ "$2" -le 1024 ] || return
    LC_ALL=C
    while IFS= read -r _rv_x || ! _rv_t=$_rv_t$_rv_x; do
        _rv_t="$_rv_t$_rv_x
"
        [ "${#_rv_t}" -le "$2" ] || return
    done <"$1"
    case $_rv_t in *[!\ -~"$_rv_blank"]*) return 1 ;; esac
    [ "${#_rv_t}" = "$2" ]
}
_rv_tell() {
    case $2 in *full) set -- "$1" "$2" nothing ;; esac
    read -r _rv_x <&9
    if _rv_text "$3.out" "$_rv_out_size" && _rv_out=$_rv_t && _rv_text "$3.err" "$_rv_err_size"; then
        printf '\n%s <\n%s\n%s -\n%s\n%s %s >\n' "$1" "$_rv_out" "$1" "$_rv_t" "$1" "$2"
    else
        _rv_x=
        printf '\n%s <\n' "$1"
        if [ -s "$3.out" ] && [ -s "$3.err" ] && printf '\n%s -\n' "$1" >"$3.mid"; then
            # One process for all; where it fails it may have sent this before.
            cat "$3.out" "$3.mid" "$3.err" || { _rv_x=' unsent'; printf '\n%s -\n' "$1"; }
        else
            [ ! -s "$3.out" ] || cat "$3.out" || _rv_x=' unsent'
            printf '\n%s -\n' "$1"
            [ ! -s "$3.err" ] || cat "$3.err" || _rv_x=' unsent'
        fi
        printf '\n%s %s >\n' "$1" "$2$_rv_x"
    fi >&8
    echo >&9
}
_rv_read() {
    read -r _rv_x <&9
    {
        printf '\n%s <\n' "$1"
        LC_ALL=C cat -- "$3" 2>"$2.err"
        _rv_x=$?
        [ -e "$2.err" ] || _rv_x="$_rv_x lost"
        printf '\n%s -\n' "$1"
        [ -s "$2.err" ] && cat "$2.err"
        printf '\n%s %s >\n' "$1" "$_rv_x"
    } >&8
    echo >&9
}
_rv_write() {
    if [ "$_rv_folder" ]; then TMPDIR=$_rv_folder; else unset TMPDIR; fi
    if [ ! -e "$3" ]; then
        echo "$3: No such file or directory" >&2
        false
    else
        base64 -d >>"$3" || { printf %4096s x | LC_ALL=C cat >>"$3"; false; } # which says why
    fi 2>"$2.err"
    _rv_done "$1" $? "$2"
}
_rv_empty() {
    { true >"$3"; } 2>"$2.err"
    _rv_done "$1" $? "$2"
}
_rv_done() {
    _rv_s=$2
    [ "$_rv_s" = 0 ] || _rv_has_room || _rv_s="$_rv_s full"
    [ -e "$3.err" ] || _rv_s="$2 lost"
    _rv_tell "$1" "$_rv_s" "$3"
}
"""
)
"""For the shell, after those of `jobs`: ``_rv_tell`` sends a frame; files and their content go by frames as well."""


@dataclass(slots=True)
class Frame:
    """One that is to come, and who waits for it."""

    stdout: Sink
    stderr: Sink
    size: int = 0
    """Bytes that have come of both."""
    words: asyncio.Future[list[bytes]] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    """What the shell has told of the end."""

    def take(self, sink: Sink, piece: bytes) -> None:
        """Give a piece to a sink; one that refuses it gets no more, and who waits for the frame is told."""
        self.size += len(piece)
        if not self.words.done():
            try:
                sink(piece)
            except Exception as refusal:  # the sink's own
                self.fail(refusal)

    def fail(self, error: Exception) -> None:
        if not self.words.done():
            self.words.set_exception(error)
            self.words.exception()  # somebody who was cancelled will not ask for it
