"""Owns the question whether another process stands still: by Ctrl-Z, SIGSTOP or a debugger, until it is let go on."""

from pathlib import Path

_STATES = ("T", "t")  # proc(5): stopped, and traced


def is_stopped(pid: int) -> bool:
    """Whether it does at this moment; one that there is not does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(") ")[2].startswith(_STATES)
    except OSError:
        return False
