"""Owns the text by which a POSIX shell in the guest runs our commands: as jobs in the background, each with files for
its streams. How the shell is reached, and how it tells that a job has ended, is the business of a channel.
"""

import errno
import os
import secrets

# A redirection that fails ends a shell when it is that of a special builtin (":" is one, "true" is not).
FUNCTIONS = r"""
exec 2>/dev/null
PS1= PS2=
umask 022
_rv_run() {
    {
        (
            exec <"$3" >"$2.out" 2>"$2.err" 8>&- 9>&-
            eval "$4"
        )
        _rv_tell "$1" $? "$2"
    } &
    eval "_rv_$1=$!"
}
_rv_kill() (
    eval "_rv_own=\$_rv_$1"
    _rv_found=" $_rv_own " _rv_again=1
    while [ "$_rv_again" ]; do
        _rv_again=
        for _rv_f in /proc/[0-9]*/stat; do
            read -r _rv_x <"$_rv_f" || continue
            _rv_p=${_rv_f#/proc/} _rv_p=${_rv_p%/stat}
            set -- ${_rv_x##*) }
            case $_rv_found in
                *" $_rv_p "*) ;;
                *" $2 "*) kill -STOP "$_rv_p"; _rv_found="$_rv_found$_rv_p " _rv_again=1 ;;
            esac
        done
    done
    for _rv_p in $_rv_found; do [ "$_rv_p" = "$_rv_own" ] || kill -KILL "$_rv_p"; done
)
"""
"""``_rv_run NONCE BASE INPUT SCRIPT`` runs a script into BASE.out and BASE.err, then ``_rv_tell NONCE STATUS BASE``.

``_rv_kill NONCE`` kills what it has started. The shell must have a ``_rv_tell``, whose descriptors are 8 and 9.
"""

PLACES = ("/var/tmp", "/tmp", "/run", "/dev/shm")
"""Where the jobs' files may be: on a disk if possible, since a command may print hundreds of megabytes."""

MAKE_FOLDER = rf"""
for _rv_d in {" ".join(PLACES)}; do _rv_d=$_rv_d/FOLDER; mkdir -m 700 "$_rv_d" 2>/dev/null && break; done
"""
"""Makes a folder for the jobs' files and puts its name into ``$_rv_d``; FOLDER is to be replaced by `folder_name`."""

_KEPT = 32
_NUMBERS = {os.strerror(number): number for number in errno.errorcode}


def folder_name() -> str:
    """A name that nobody in the guest can have taken."""
    return f".readonly-vm-{secrets.token_hex(8)}"


class JobFiles:
    """The names of the files of one shell's jobs, and when to remove them."""

    def __init__(self, folder: str, number: int = 0) -> None:
        """`number` is that of the last job that had files in the folder."""
        self.folder = folder
        self.number = number
        self._used: list[str] = []

    def new_base(self) -> str:
        """What the names of a job's files begin with. Names are not used again: a child may still write there."""
        self.number += 1
        base = f"{self.folder}/{self.number}"
        self._used.append(base)
        return base

    def tidying(self) -> bytes:
        """A line for the shell that removes what is no longer read, now and then: it costs a process."""
        if len(self._used) <= 2 * _KEPT:
            return b""
        names = " ".join(f"{base}.*" for base in self._used[:-_KEPT])
        del self._used[:-_KEPT]
        return f"rm -f {names} &\n".encode()


def quoted(text: bytes) -> bytes:
    """A word for a POSIX shell."""
    return b"'" + text.replace(b"'", b"'\"'\"'") + b"'"


def os_error(complaint: str, path: bytes) -> OSError:
    """What a program or the agent complained of, ``...: No such file or directory``, as an exception."""
    reason = complaint.strip().rpartition(": ")[2]
    return OSError(_NUMBERS.get(reason, errno.EIO), reason, os.fsdecode(path))
