"""Owns the search for a cut at which a check fails, and for the fewest lost writes with which it still does."""

import abc
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pytest_readonly_vm.command_result import CommandResult
from pytest_readonly_vm.disks.cut_rules import CutRules, Survivors
from pytest_readonly_vm.disks.minimise import minimised
from pytest_readonly_vm.disks.write_log import WriteLog
from pytest_readonly_vm.errors import (
    ChannelError,
    CommandTimeout,
    ConfigurationError,
    ConnectionLost,
    CutFailed,
    DisplayError,
    GuestLacks,
    HostError,
    ImageError,
    MountFailed,
    NetworkError,
    QemuDied,
    QmpError,
    RecordingError,
    StartFailed,
    TransferError,
    VmError,
)
from pytest_readonly_vm.machine.cut import Cut, Recorded

Check = Callable[[Cut], object]
"""Looks at a cut. Where that is not as it must be, it raises, as by ``assert``, or returns False or the result of a
command that failed."""

_NOT_OF_THE_CUT = (
    *(ChannelError, ConfigurationError, ConnectionLost, DisplayError, GuestLacks, HostError, ImageError),
    *(NetworkError, QemuDied, QmpError, RecordingError, StartFailed),
)
"""Errors that say nothing of a cut, but that it could not be looked at."""


@dataclass(frozen=True, slots=True)
class FailedCut:
    """A cut at which a check fails."""

    cut: Cut
    """The first one."""
    why: str
    """What the check said of it."""
    minimal: Cut
    """With the fewest lost writes with which it still fails."""
    why_minimal: str
    tried: int
    """How many cuts were looked at until it was found."""
    lost: Sequence[str] = field(default=())
    """The lost writes of the minimal one, in words."""

    def __str__(self) -> str:
        return f"{self.cut.id}: {self.why}"

    def report(self, label: str) -> str:
        """Lines for a person."""
        acknowledged = self.minimal.acknowledged
        lines = [
            f"reproduced by: {label}.cut({self.minimal.id!r})",
            f"first failing cut: {self.cut.id}, after {self.tried} cuts; {self.cut.lost} writes lost: {self.why}",
            f"fewest lost writes: {self.minimal.lost}: {self.why_minimal}",
            *(f"  lost: {one}" for one in self.lost),
        ]
        if acknowledged:
            lines.append(f"acknowledged by then: {len(acknowledged)}, the last one {acknowledged[-1]!r}")
        return "\n".join(lines)


class CutSearch(Recorded):
    """What has cuts to be searched."""

    @property
    @abc.abstractmethod
    def rules(self) -> CutRules: ...

    @abc.abstractmethod
    def cuts(
        self, at: str = "flush", *, limit: int | None = None, seed: int = 0, torn: bool = False
    ) -> Iterator[Cut]: ...

    def first_failing(
        self,
        check: Check,
        *,
        at: str = "flush",
        limit: int | None = None,
        seed: int = 0,
        torn: bool = False,
        minimise: int = 50,
        keep: str | os.PathLike[str] | None = None,
    ) -> FailedCut | None:
        """Look at cuts until a check fails, then for the fewest lost writes with which it still does; None if none.

        :param check: gets a `Cut`. It fails where it raises an `AssertionError`, or an error of the guest's such as
            `CommandFailed` or `MountFailed`, or returns False, or a `CommandResult` that is not ok. An error that says
            that the cut could not be looked at, such as `StartFailed`, is raised.
        :param at: as `limit`, `seed` and `torn`, of `cuts`.
        :param minimise: how many further cuts may be looked at for that; 0 for none.
        :param keep: a path at which the disk of the minimal one is kept, as qcow2.
        :raises RecordingError: there is not a single cut.
        :raises VmError: a cut could not be looked at.
        """
        tried = 0
        for cut in self.cuts(at, limit=limit, seed=seed, torn=torn):
            tried += 1
            if (why := failure(check, cut)) is not None:
                found = self._minimal(check, cut, why, tried, minimise)
                if keep is not None:
                    found.minimal.export(keep)
                return found
        if not tried:
            raise RecordingError(f"{self.disk.vm.name}: {self.disk.name}: nothing was recorded, so there is no cut")
        return None

    def verify(
        self,
        check: Check,
        *,
        at: str = "flush",
        limit: int | None = None,
        seed: int = 0,
        torn: bool = False,
        minimise: int = 50,
        keep: str | os.PathLike[str] | None = None,
    ) -> None:
        """The same as an assertion; see `first_failing`.

        :raises CutFailed: the check fails at a cut.
        """
        found = self.first_failing(check, at=at, limit=limit, seed=seed, torn=torn, minimise=minimise, keep=keep)
        if found is None:
            return
        label = f"{self.disk.vm.name}: {self.disk.name}"
        error = CutFailed(f"{label}: {found}", id=found.cut.id, minimal=found.minimal.id)
        error.add_note(found.report("log"))
        if keep is not None:
            error.add_note(f"its disk is kept in {os.fspath(keep)}")
        raise error

    def _minimal(self, check: Check, cut: Cut, why: str, tried: int, most: int) -> FailedCut:
        lost = list(cut.state.lost.items())
        reasons: dict[tuple[tuple[int, int], ...], str] = {tuple(lost): why}

        def still_fails(part: Sequence[tuple[int, int]]) -> bool:
            reason = failure(check, self._with_lost(cut.state, dict(part)))
            if reason is not None:
                reasons[tuple(part)] = reason
            return reason is not None

        fewest = minimised(lost, still_fails, most=most)
        minimal = cut if len(fewest) == len(lost) else self._with_lost(cut.state, dict(fewest))
        words = [self._words(*one) for one in fewest[:20]]
        if len(fewest) > len(words):
            words.append(f"{len(fewest) - len(words)} more")
        return FailedCut(cut, why, minimal, reasons[tuple(fewest)], tried, words)

    def _with_lost(self, state: Survivors, lost: Mapping[int, int]) -> Cut:
        # Before the first write that may be lost all is there: `write:230/3` has more of that than was flushed.
        changed = Survivors(state.moment, self.rules.sure(state.moment), lost)
        return Cut(self, self.rules.name(changed), changed)

    def _words(self, entry: int, sectors: int) -> str:
        log: WriteLog = self.log
        part = f", but for its first {sectors}" if sectors else ""
        what = "write" if log.has_data(entry) else "discard"
        return f"entry {entry}: {what} of {log.count[entry]} sectors at sector {log.sector[entry]}{part}"


def failure(check: Check, cut: Cut) -> str | None:
    """Why a check fails at a cut; None if it does not.

    :raises VmError: the cut could not be looked at.
    """
    try:
        found = check(cut)
    except (MountFailed, TransferError, CommandTimeout) as error:
        return _first_line(error)
    except _NOT_OF_THE_CUT:
        raise
    except (AssertionError, VmError) as error:
        return _first_line(error)
    except BaseException as error:
        if type(error).__module__.startswith("_pytest.") and type(error).__name__ == "Failed":  # of `pytest.fail`
            return _first_line(error)
        raise
    if isinstance(found, CommandResult) and not found.ok:
        return f"{found.command}: exit code {found.exit_code}"
    return "the check is not met" if found is False else None


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).partition("\n")[0]
