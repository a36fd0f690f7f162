"""Owns what is known of a guest's systemd units: the wait for one, and which will never come true."""

import contextlib
import difflib
import shlex
from collections.abc import Iterable, Mapping

from pytest_readonly_vm.errors import GuestLacks, UnitFailed, UnitNotFound, VmError, WaitTimeout
from pytest_readonly_vm.guest.commands import Commands
from pytest_readonly_vm.guest.waits import until
from pytest_readonly_vm.printable import line

_SHOWN = ("ActiveState", "SubState", "UnitFileState", "LoadState", "Result", "ExecMainStatus", "Id")
_PATIENCE = 10.0
"""Seconds for what is only to be said of a failure."""

_PATTERN = frozenset("*?[")
"""By these systemd takes a name for a pattern, and answers with all units that match."""

_NEAREST = 3
_ALIKE = 0.6

_MADE_WHILE_IT_RUNS = (".device", ".mount", ".scope", ".swap")
"""Kinds of units that come of what programs and the kernel do, and not of a file that would have to be there."""

_KINDS = (".service", ".socket", ".target", ".timer", ".path", ".automount", ".slice", *_MADE_WHILE_IT_RUNS)

_LOOK = """\
if ! [ -d /run/systemd/system ]; then
    read -r init </proc/1/comm
    [ ! -d /run/openrc ] || init=OpenRC
    echo "init=$init"
    exit
fi
shown=$(systemctl show --property={shown} -- {unit}) || exit
echo "$shown"
case $shown in *LoadState=not-found*) echo "system=$(systemctl is-system-running)" ;; esac
"""
# The files in the folders of systemd, generated and transient ones too: its own list takes an emulated guest 9 s.
_NAMES = "ls $(systemctl show --property=UnitPath --value)"


# Of its programs, and not what systemd says of it.
_LAST_WORDS = """\
journalctl --sync
id=$(systemctl show --property=Id --value -- {unit})
journalctl --quiet --boot --lines=1 -o cat "_SYSTEMD_UNIT=$id"
"""
_LONGEST_WORDS = 200

_NOT_LOADED = {
    "masked": "is masked",
    "bad-setting": "is not loaded, as a setting of it is wrong",
    "error": "is not loaded, as its file cannot be read",
}
"""What is to be said of a unit by its load state."""


class Units:
    """The units of one machine; for the loop."""

    def __init__(self, commands: Commands, name: str) -> None:
        self._commands = commands
        self._name = name

    async def until_active(self, unit: str, timeout: float) -> None:
        """As `VirtualMachine.wait_for_unit`."""
        state: dict[str, str] = {}

        async def attempt() -> bool:
            found = await self.state(unit)
            state.clear()  # not before: what was seen last is told if the time is up meanwhile
            state.update(found)
            if state["ActiveState"] == "active":
                return True
            await self.refuse_missing(unit, state)
            if why := failure(state):
                raise await self.failed(unit, why, "so it will not become active")
            return False

        def last() -> list[str]:
            return [", ".join(f"{name}={state[name]}" for name in _SHOWN[:3] if state.get(name))]

        try:
            await until(self._name, attempt, f"the unit {unit} to be active", timeout, last)
        except WaitTimeout as late:
            if state:
                await self._add_status(late, unit)
            raise

    async def state(self, unit: str) -> Mapping[str, str]:
        """What systemd says of a unit, and of the guest's ``boot``. Its ``Id`` is another name if this is an alias.

        :raises GuestLacks: there is no systemd, or no unit can have that name.
        """
        if _PATTERN.intersection(unit):
            raise UnitNotFound(f"{self._name}: {unit!r} is no unit: it is a pattern, which more than one may match")
        look = _LOOK.format(shown=",".join(_SHOWN), unit=shlex.quote(unit))
        said = await self._commands.run(look, check=False)
        found = dict(one.partition("=")[::2] for one in said.stdout.splitlines())
        if init := found.get("init"):
            instead = f"'rc-service {unit} status'" if init == "OpenRC" else "..."
            raise GuestLacks(
                f"{self._name}: the guest has no systemd, and so no unit {unit}, as its init is {init}; "
                f"wait_until_succeeds({instead}) waits for whatever a command can tell"
            )
        if said.exit_code or "ActiveState" not in found:
            reason = said.stderr.strip().splitlines()
            raise UnitNotFound(f"{self._name}: {unit!r} is no unit: {reason[-1] if reason else 'systemd knows none'}")
        return found

    async def refuse_missing(self, unit: str, state: Mapping[str, str]) -> None:
        """Do nothing if a unit is there, or may come.

        :raises UnitNotFound: it will not.
        """
        if not is_missing(unit, state):
            return
        names = await self._commands.run(_NAMES, check=False)
        alike = nearest(unit, {name for name in names.stdout.splitlines() if name.endswith(_KINDS)})
        hint = f" (did you mean {' or '.join(alike)}?)" if alike else ""
        error = UnitNotFound(f"{self._name}: there is no unit {unit} in the guest{hint}")
        error.add_note(f"Of one that is to appear later: wait_until_succeeds('systemctl is-active {unit}')")
        raise error

    async def failed(self, unit: str, why: str, what: str) -> UnitFailed:
        """The error that says of a unit why it has failed, what its programs said last, and what comes of that."""
        words = ""
        with contextlib.suppress(VmError):
            script = _LAST_WORDS.format(unit=shlex.quote(unit))
            words = line((await self._commands.run(script, check=False, timeout=_PATIENCE)).stdout, _LONGEST_WORDS)
        said = f", last said: {words}" if words else ""
        error = UnitFailed(f"{self._name}: the unit {unit} {why}{said}; {what}")
        await self._add_status(error, unit)
        return error

    async def _add_status(self, error: VmError, unit: str) -> None:
        """A note with what the unit is and the end of what it has logged."""
        with contextlib.suppress(VmError):
            status = f"journalctl --sync; systemctl status --no-pager --full --lines=20 -- {shlex.quote(unit)}"
            said = await self._commands.run(status, check=False, timeout=_PATIENCE)
            error.add_note(said.stdout.rstrip())


def is_missing(unit: str, state: Mapping[str, str]) -> bool:
    """Whether a unit is not there and will not be. Pure.

    While a guest boots it may come yet: cloud-init installs packages then.
    """
    may_come = state.get("system") in ("initializing", "starting") or unit.endswith(_MADE_WHILE_IT_RUNS)
    return state["LoadState"] == "not-found" and state["ActiveState"] == "inactive" and not may_come


def failure(state: Mapping[str, str]) -> str:
    """Why a unit will not become active by itself, as a sentence without its beginning; empty if it may. Pure."""
    if state.get("ActiveState") == "failed":
        why = state.get("Result", "failed")
        if why == "exit-code" and state.get("ExecMainStatus", "0") != "0":
            why = f"exit code {state['ExecMainStatus']}"
        return f"failed ({why})"
    return _NOT_LOADED.get(state.get("LoadState", ""), "")


def nearest(unit: str, names: Iterable[str]) -> list[str]:
    """The units whose names resemble one, the nearest first. Pure."""
    by_stem: dict[str, list[str]] = {}
    for name in sorted(names):
        by_stem.setdefault(name.rpartition(".")[0], []).append(name)
    stem = unit.rpartition(".")[0] if unit.endswith(_KINDS) else unit
    alike = difflib.get_close_matches(stem, by_stem, n=_NEAREST, cutoff=_ALIKE)
    return [name for near in alike for name in by_stem[near]][:_NEAREST]
