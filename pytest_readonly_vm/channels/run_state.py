"""Owns what is said of a guest that stands still: QEMU's run states in words, and what lets the guest go on. Pure.

The states: https://www.qemu.org/docs/master/interop/qemu-qmp-ref.html (``RunState``).
"""

from collections.abc import Mapping
from typing import NamedTuple

_RESUME = "vm.resume() lets it go on"


class _State(NamedTuple):
    why: str
    remedy: str = _RESUME
    is_trouble: bool = False


_STATES: Mapping[str, _State] = {
    "paused": _State("it was told to stop, by vm.pause(), the monitor or a debugger"),
    "suspended": _State("it has suspended itself to RAM", "vm.resume() wakes it"),
    "debug": _State("it has reached what a debugger waits for", f"the debugger, or {_RESUME}"),
    "prelaunch": _State("it was not started, or reset while it stood still"),
    "postmigrate": _State("its state has been saved"),
    "shutdown": _State("it has shut down and QEMU has not ended", "vm.reboot(hard=True) boots it anew", True),
    "watchdog": _State("its watchdog has not been fed in time", is_trouble=True),
    "io-error": _State("a disk cannot be read or written", is_trouble=True),
    "guest-panicked": _State("its kernel has panicked", "vm.reboot(hard=True) boots it anew", True),
    "internal-error": _State(
        "the virtual processor has failed, of which QEMU's stderr may say more",
        "vm.reboot(hard=True) boots it anew, vm.reset() makes a fresh one",
        True,
    ),
}
_OTHER = _State("QEMU saves or loads its state", "it goes on by itself, or vm.resume() lets it")


def standstill(state: str) -> str:
    """Of a run state that is not ``running``: why, and what to do."""
    found = _STATES.get(state, _OTHER)
    return f"the guest stands still: run state {state} ({found.why}); {found.remedy}"


def is_trouble(state: str) -> bool:
    """Whether nobody can have meant it."""
    return _STATES.get(state, _OTHER).is_trouble
