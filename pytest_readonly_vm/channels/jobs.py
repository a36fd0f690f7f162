"""Owns the text by which a POSIX shell in the guest runs our commands: as jobs in the background, each with files for
its streams, in a place that nobody else has. How the shell is reached, and how it tells that a job has ended, is the
business of a channel.
"""

import errno
import os
import secrets
from collections.abc import Sequence

from pytest_readonly_vm.errors import ChannelError, ChannelLost
from pytest_readonly_vm.printable import shown

PLACES = ("/var/tmp", "/tmp", "/run", "/dev/shm")
"""Where there may be room for files of ours: on a disk if possible."""

# A file system in memory that is taken out of sight as soon as the shell is in it lives on as the shell's working
# folder: nothing that is mounted, moved, removed, filled or made read-only in the guest reaches it. Where that cannot
# be had it is a folder on a disk.
PLACE = rf"""
for _rv_d in {" ".join((*PLACES, "/dev"))}; do
    _rv_d=$_rv_d/FOLDER
    mkdir -m 700 "$_rv_d" && cd "$_rv_d" && _rv_room=$_rv_d && break
done 2>/dev/null
_rv_hide() {{
    mount -t tmpfs -o "mode=700,size=$1" readonly-vm "$_rv_d" && cd "$_rv_d" && umount -l "$_rv_d"
}} 2>/dev/null
_rv_settle() {{
    _rv_hide 50% && rmdir "$_rv_d" || return
    read -r _rv_x _rv_k _rv_x </proc/meminfo && _rv_room="$((_rv_k / 2048)) MiB, half of its memory"
}} 2>/dev/null
"""
"""Makes a place, and ``_rv_settle`` to take it as the working folder; FOLDER is to be replaced by `folder_name`.

``$_rv_room`` says for people how much room there is; it is empty where there is no place. ``_rv_hide SIZE`` makes a
place of a size and goes there.
"""

# A redirection that fails ends a shell when it is that of a special builtin (":" is one, "true" is not). Many shells
# begin what runs in the background by opening /dev/null, and end it if that is gone; not so in a pipeline's end.
FUNCTIONS = r"""
true >/dev/null && exec 2>/dev/null 7</dev/null
PS1= PS2= _rv_full=0
[ ! "$_rv_helper" ] || kill -KILL "$_rv_helper"
_rv_helper=
umask 022
_rv_start() {
    if true </dev/null; then "$@" & else : | "$@" & fi
}
_rv_job() {
    _rv_s=2
    {
        (
            [ ! "$3" ] || exec 7<"$3"
            exec <&7 >&5 2>&6 5>&- 6>&- 7<&- 8>&- 9>&-
            _rv_x=$4
            set --
            eval "$_rv_x"
        )
        _rv_s=$?
        [ ! -s "$2.out" ] || read -r _rv_x _rv_out_size </proc/self/fdinfo/5
        [ ! -s "$2.err" ] || read -r _rv_x _rv_err_size </proc/self/fdinfo/6
    } 5>"$2.out" 6>"$2.err"
    [ -e "$2.out" ] && [ -e "$2.err" ] || _rv_s="$_rv_s lost"
    _rv_has_room && [ ! -e "full$_rv_full" ] || _rv_s="$_rv_s full"
    _rv_tell "$1" "$_rv_s" "$2"
}
_rv_run() {
    _rv_start _rv_job "$@"
    eval "_rv_$1=$!"
}
_rv_has_room() {
    printf %4096s x >room && true >room
}
_rv_tidy() {
    _rv_has_room || { true >"full$_rv_full"; _rv_full=$((_rv_full + 1)); }
    rm -f "$@" <&7
}
_rv_has_streams() {
    [ "$1/1" -ef "$2.out" ] || [ "$1/2" -ef "$2.err" ] || [ "$1/1" -ef "$2.err" ] || [ "$1/2" -ef "$2.out" ]
}
_rv_kill() (
    eval "_rv_own=\$_rv_$1"
    _rv_found=" $_rv_own " _rv_again=1 _rv_nonce=$1 _rv_base=$2
    while [ "$_rv_again" ]; do
        _rv_again= _rv_waits=
        for _rv_f in /proc/[0-9]*/stat; do
            read -r _rv_x <"$_rv_f" || continue
            _rv_p=${_rv_f#/proc/} _rv_p=${_rv_p%/stat}
            set -- ${_rv_x##*) }
            case $_rv_found in
                *" $_rv_p "*)
                    [ "$_rv_p" != "$_rv_own" ] || [ "$1" = Z ] || _rv_waits=1
                    continue
                    ;;
                *" $2 "* | *" $4 "*) ;;
                *) _rv_has_streams "/proc/$_rv_p/fd" "$_rv_base" || continue ;;
            esac
            kill -STOP "$_rv_p"
            _rv_found="$_rv_found$_rv_p " _rv_again=1
        done
    done
    for _rv_p in $_rv_found; do [ "$_rv_p" = "$_rv_own" ] || kill -KILL "$_rv_p"; done
    [ "$_rv_waits" ] || _rv_tell "$_rv_nonce" 137 "$_rv_base"
)
"""
"""``_rv_run NONCE BASE INPUT SCRIPT`` runs a script into BASE.out and BASE.err, then ``_rv_tell NONCE WORDS BASE``.

The words are the script's exit status and what has befallen its files: ``lost``, or ``full`` if the place has been full
at any time since its begin. ``$_rv_out_size`` and ``$_rv_err_size`` are where in them it has stopped to write, if that
is known. ``_rv_kill NONCE BASE`` kills what it has started: the children of its shell, theirs, who has one of its
streams, and who is in a session that one of these leads. It tells the end itself if who would is dead. ``_rv_start``
runs a function in the background; ``_rv_tidy`` removes files, and what is typed after it has their room. The shell must
have a ``_rv_tell``, whose descriptors are 8 and 9.
"""

_HIDDEN = ".readonly-vm-"
_KEPT = 64
_KEPT_BYTES = 1 << 20
_GONE = (errno.ENOENT, errno.EROFS)
_NUMBERS = {os.strerror(number): number for number in errno.errorcode}


def folder_name() -> str:
    """A name that nobody in the guest can have taken."""
    return f"{_HIDDEN}{secrets.token_hex(8)}"


class JobFiles:
    """The names of the files of one shell's jobs, when to remove them, and what is said when they fail us."""

    def __init__(self, machine: str, room: str = "", number: int = 0) -> None:
        """`room` is how much of it there is, `number` that of the last job that had files there."""
        self.room = shown(room.strip())
        self.number = number
        self._machine = machine
        self._ended: list[str] = []
        self._bytes = 0

    @property
    def _place(self) -> str:
        """For people: how much room there is, or where, but for the name that nobody can know."""
        return self.room.partition(f"/{_HIDDEN}")[0]

    def new_base(self) -> str:
        """What the names of a job's files begin with. Names are not used again: a child may still write there."""
        self.number += 1
        return str(self.number)

    def ended(self, base: str, size: int = 0) -> None:
        """Nobody will read these files any more; there may be `size` bytes in them."""
        self._ended.append(base)
        self._bytes += size

    @property
    def are_large(self) -> bool:
        """Whether what has ended takes so much room that it is worth a process to have it back."""
        return self._bytes > _KEPT_BYTES

    def tidying(self) -> bytes:
        """A line for the shell that removes what is no longer read, now and then: it costs a process."""
        if len(self._ended) < _KEPT and not self.are_large:
            return b""
        names = " ".join(f"{base}.*" for base in self._ended)
        self._ended.clear()
        self._bytes = 0
        return f"_rv_tidy {names}\n".encode()

    def status(self, words: Sequence[bytes]) -> int:
        """The exit status of a job of which the shell has told these words.

        :raises ChannelLost: its files, and the place for all, are gone.
        :raises ChannelError: what it printed is not complete, or the words make no sense.
        """
        if not words or not words[0].isdigit() or len(words[0]) > 3:
            raise self.nonsense(b" ".join(words))
        if b"lost" in words:
            raise ChannelLost(
                f"{self._machine}: the command's result is lost, as the folder for its streams was made read-only, "
                f"replaced or removed in the guest ({self._place})"
            )
        if b"full" in words:
            self._bytes += _KEPT_BYTES + 1  # of which nobody has seen how many they are
            raise ChannelError(
                f"{self._machine}: what the command printed is not complete, as there was no more room for what "
                f"commands print ({self._place}): let it print to a file in the guest, and pull that"
            )
        if b"unsent" in words:
            raise ChannelError(
                f"{self._machine}: the guest cannot send what the command printed, as it has no `cat` that works; "
                f"the exit code was {words[0].decode()}"
            )
        return int(words[0])

    def nonsense(self, told: bytes) -> ChannelError:
        """The error for what no shell would tell of the end of a job."""
        return ChannelError(f"{self._machine}: the guest's shell tells no exit code of a command, but {told!r:.80}")

    def refusal(self, size: int, reason: OSError) -> ChannelError:
        """The error for an input or a script of `size` bytes that cannot be put where the jobs' files are."""
        if reason.errno == errno.ENOSPC:
            return ChannelError(
                f"{self._machine}: there is no room for an input of {size} bytes ({self._place}): push it as a file"
            )
        kind = ChannelLost if reason.errno in _GONE else ChannelError
        return kind(
            f"{self._machine}: an input of {size} bytes cannot be put into the guest ({self._place}): "
            f"{shown(reason.strerror or '')}"
        )


def script_line(script: bytes) -> bytes:
    """A script as a job has it: out of the place of the files, and where a service of the guest would begin."""
    return b"cd /\n" + script


def absolute(path: bytes) -> bytes:
    """A path as it is from the folder in which scripts begin."""
    return path if path.startswith(b"/") else b"/" + path


def quoted(text: bytes) -> bytes:
    """A word for a POSIX shell."""
    return b"'" + text.replace(b"'", b"'\"'\"'") + b"'"


def os_error(complaint: str, path: bytes) -> OSError:
    """What a program or the agent complained of, ``...: No such file or directory``, as an exception."""
    lines = complaint.strip().splitlines() or ["it cannot be read or written"]
    reason = lines[-1].rpartition(": ")[2]
    number = _NUMBERS.get(reason)
    return OSError(number or errno.EIO, reason if number else lines[-1], os.fsdecode(path))
