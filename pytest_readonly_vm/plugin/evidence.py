"""Owns when evidence is saved and where: for each attempt of a test a folder, before its machines end.

What of a test fails last is its teardown, when its machines have ended. So of each of them is kept what costs nothing,
until the report on the teardown has decided.
"""

import contextlib
import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import pytest

from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.host.once import OncePerKey
from pytest_readonly_vm.host.stopwatch import Part, Stopwatch
from pytest_readonly_vm.image.output_guard import OutputGuard
from pytest_readonly_vm.plugin import integrations
from pytest_readonly_vm.plugin.failure import headline
from pytest_readonly_vm.plugin.given import given_settings
from pytest_readonly_vm.plugin.hosts.homeward import AtHome, Delivery, Homeward, pieces
from pytest_readonly_vm.plugin.incident import INCIDENT, Incident
from pytest_readonly_vm.plugin.output_folder import OutputFolder, folder_name

if TYPE_CHECKING:
    from pytest_readonly_vm.evidence.collect import Evidence
    from pytest_readonly_vm.machine.private_network import PrivateNetwork
    from pytest_readonly_vm.machine.vm import VirtualMachine

_TITLE = "Evidence folder"


@dataclass(slots=True)
class _Attempt:
    """One attempt of one test."""

    item: pytest.Item
    number: int
    is_wanted: bool = False
    """Whether what is saved is to stay."""
    folders: dict[Path, Path] = field(default_factory=dict)
    """The attempt's own in each output folder."""
    saved: "dict[VirtualMachine, Evidence]" = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)
    networks: "dict[PrivateNetwork, list[Path]]" = field(default_factory=dict)
    """What was saved of networks, or was to be."""
    names: "dict[PrivateNetwork, str]" = field(default_factory=dict)
    """What the files of networks are called."""
    logs: "dict[VirtualMachine, BinaryIO]" = field(default_factory=dict)
    """What the consoles of machines that have ended had said."""


class EvidenceKeeper:
    """Saves the evidence of what one pytest process runs. It changes no test's outcome, whatever happens to it."""

    def __init__(self, config: pytest.Config, run_name: str, output_guard: OutputGuard, stopwatch: Stopwatch) -> None:
        self._config = config
        self._stopwatch = stopwatch
        self._output_guard = output_guard
        self._run_name = run_name
        self._opened: OncePerKey[None, OutputFolder] = OncePerKey()
        self._attempt: _Attempt | None = None
        self._is_ending = False
        self._is_saving = False
        self._way = Homeward.of(config) or AtHome(config)
        """Of what is saved, to who reads the report."""

    @property
    def _output_folder(self) -> OutputFolder:
        return self._opened.get(None, self._new_output_folder)

    def _new_output_folder(self) -> OutputFolder:
        folder = OutputFolder(pieces, self._run_name, self._output_guard)
        if self._way.is_elsewhere:
            self._config.add_cleanup(folder.remove_empty)  # when it is closed
        self._config.add_cleanup(folder.close)
        return folder

    def delivery(self) -> Delivery:
        """Where a worker on another host delivers what it has saved."""
        given = given_settings(self._config).get("output")
        output = self._output(VmConfig().with_settings({"output": given} if given else {}))
        self._output_folder.enter(output)
        return Delivery(output, self._output_folder, self._output_guard, pieces)

    def abandon(self) -> None:
        """Nobody will hear of what was saved, as the controller has gone: leave none of it. Any thread may."""
        if attempt := self._attempt:
            for folder in attempt.folders.values():
                with contextlib.suppress(OSError):
                    self._output_folder.give_back(folder)
        for output in self._opened.made().values():
            output.close()
            output.remove_empty()

    # As a plugin.

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """What a worker of xdist has saved is to stay until the run ends, and not the worker."""
        for output in vars(report).get(INCIDENT, {}).get("outputs", ()):
            self._output_folder.hold(Path(output))

    # In the course of a test.

    def begins(self, config: VmConfig) -> None:
        """A machine is about to be started."""
        if _is_on(config):
            self._output_folder.enter(self._output(config))

    def came_to_nothing(self, vm: "VirtualMachine", error: BaseException, item: pytest.Item | None) -> None:
        """A machine has not become ready and is about to be discarded."""
        if _is_on(vm.config) and item is not None and not self._is_ending:
            self._save(self._attempt_of(item), [vm], f"start: {_first_line(str(error)) or type(error).__name__}")

    def ends(self, vm: "VirtualMachine", item: pytest.Item | None) -> None:
        """A machine is about to be closed."""
        if _is_on(vm.config) and item is not None:
            with contextlib.suppress(OSError):
                self._attempt_of(item).logs[vm] = vm.console.log_path.open("rb")

    def look(
        self, item: pytest.Item, report: pytest.TestReport, machines: "Sequence[VirtualMachine]"
    ) -> "dict[VirtualMachine, list[str]]":
        """A phase of a test is over, and its machines may still live: save what is wanted of them.

        Return what the guests complained of, also those that came to nothing, as far as they were asked.
        """
        if not machines and self._attempt is None:
            return {}
        attempt = self._attempt_of(item)
        if wanted := [vm for vm in machines if _is_wanted(vm.config, report)]:
            self._save(attempt, wanted, f"{report.when}: {headline(report)}", capsule=report.failed)
        attempt.is_wanted = attempt.is_wanted or report.failed or bool(wanted)
        meant = attempt.saved if report.when == "setup" else [vm for vm in machines if vm in attempt.saved]
        return {vm: attempt.saved[vm].complaints for vm in meant}

    def tell(self, report: pytest.TestReport, machines: "Sequence[VirtualMachine]") -> None:
        """Say in the report of a failure, when it is complete, where its evidence is."""
        if self._attempt is not None and report.failed:
            others = [vm for vm in self._attempt.saved if vm not in machines]
            self._tell(report, self._attempt, [*machines, *others])

    def place_of(self, vm: "VirtualMachine") -> str | None:
        """Where the evidence of a machine is, if there is some that stays."""
        attempt = self._attempt
        saved = attempt.saved.get(vm) if attempt is not None and attempt.is_wanted else None
        if attempt is None or saved is None:
            return None
        self._bring(attempt)
        return self.shown(self._way.home(saved.folder))

    def finish(self) -> None:
        """An attempt of a test is over, with its teardown."""
        attempt, self._attempt = self._attempt, None
        if attempt is None:
            return
        for log in attempt.logs.values():
            log.close()
        if attempt.is_wanted:
            self._bring(attempt)
        if self._way.is_elsewhere or not attempt.is_wanted:
            for folder in attempt.folders.values():
                with contextlib.suppress(OSError):
                    self._output_folder.give_back(folder)
                self._way.forget(folder)

    def _bring(self, attempt: _Attempt) -> None:
        """Have what is saved on the controller, if that is elsewhere."""
        with self._stopwatch.part(Part.EVIDENCE):
            attempt.complaints += self._way.bring(attempt.folders.values())

    def save_first(self, item: pytest.Item, machines: "Sequence[VirtualMachine]", why: str) -> None:
        """Save what there is before an exception leaves the test, which ends the command that hangs in the guest.

        Called by a signal's handler, so perhaps in the midst of saving: then nothing is done.
        """
        if not self._is_saving:
            self._save(self._attempt_of(item), [vm for vm in machines if _is_on(vm.config)], why, capsule=True)

    def save_now(self, item: pytest.Item, machines: "Sequence[VirtualMachine]", why: str) -> list[str]:
        """Save what there is before this process ends without a report; return lines that say where. Any thread may."""
        attempt = self._attempt_of(item)
        attempt.is_wanted = self._is_ending = True
        self._save(attempt, [vm for vm in machines if _is_on(vm.config)], why)
        self._bring(attempt)
        return [
            f"{_TITLE}: {self.shown(self._way.home(evidence.folder))}" for evidence in attempt.saved.values()
        ] + attempt.complaints

    def shown(self, path: str | Path) -> str:
        """A path as people read it: from the folder in which pytest was started, if it is below."""
        here = self._way.here
        return os.path.relpath(path, here) if Path(path).is_relative_to(here) else str(path)

    def _attempt_of(self, item: pytest.Item) -> _Attempt:
        if self._attempt is None or self._attempt.item is not item:
            self._attempt = _Attempt(item, getattr(item, "execution_count", 1) - 1)  # which is pytest-rerunfailures'
        return self._attempt

    def _save(
        self, attempt: _Attempt, machines: "Sequence[VirtualMachine]", failure: str, *, capsule: bool = False
    ) -> None:
        about = {"test": attempt.item.nodeid, "attempt": str(attempt.number + 1), "failed in": failure}
        about |= self._way.about
        machines = [vm for vm in machines if vm not in attempt.saved]
        networks = {network: vm for vm in machines for network in vm.places}
        if networks:
            from pytest_readonly_vm.evidence.networks import name_for, whereabouts

            for network in networks:
                attempt.names.setdefault(network, name_for(network, attempt.names.values()))
        for vm in machines:
            self._is_saving = True
            try:
                from pytest_readonly_vm.evidence.collect import OVERVIEW, collect
                from pytest_readonly_vm.evidence.disks import faults_of

                with self._stopwatch.part(Part.EVIDENCE):
                    evidence = collect(
                        vm,
                        self._folder(attempt, vm, is_alone=len(machines) == 1),
                        about=about | faults_of(vm) | (whereabouts(vm.places, attempt.names) if networks else {}),
                        console=attempt.logs.get(vm),
                        capsule=capsule and vm.config.capsule == "on-failure",
                    )
            except (Exception, pytest.fail.Exception) as error:  # pytest-timeout may raise the latter at any moment
                reason = (error.strerror if isinstance(error, OSError) else None) or _first_line(str(error))
                attempt.complaints.append(f"no evidence of {vm.name}: {self._output(vm.config)}: {reason}")
                continue
            finally:
                self._is_saving = False
            attempt.saved[vm] = evidence
            if OVERVIEW in evidence.missing:
                attempt.complaints.append(f"not all evidence of {vm.name} is saved: {evidence.missing[OVERVIEW]}")

        for network, vm in networks.items():
            if network not in attempt.networks and vm in attempt.saved:
                self._save_network(attempt, network, vm)

    def _save_network(self, attempt: _Attempt, network: "PrivateNetwork", vm: "VirtualMachine") -> None:
        """In the attempt's folder, as it is of several machines; with what is told of one of them."""
        from pytest_readonly_vm.evidence.networks import collect_network

        attempt.networks[network] = []
        self._is_saving = True
        try:
            with self._stopwatch.part(Part.EVIDENCE):
                folder = attempt.folders[self._output(vm.config)]
                attempt.networks[network] = collect_network(network, folder, attempt.names[network], self._output_guard)
        except (Exception, pytest.fail.Exception) as error:
            attempt.complaints.append(f"no frames of {network.name} are saved: {_first_line(str(error))}")
        finally:
            self._is_saving = False
        attempt.saved[vm].saved += attempt.networks[network]

    def _folder(self, attempt: _Attempt, vm: "VirtualMachine", *, is_alone: bool) -> Path:
        output = self._output(vm.config)
        if output not in attempt.folders:
            retry = f"-retry{attempt.number}" if attempt.number else ""
            attempt.folders[output] = self._output_folder.claim(output, folder_name(attempt.item.nodeid) + retry)
        folder = attempt.folders[output]
        if is_alone and all(evidence.folder != folder for evidence in attempt.saved.values()):
            return folder
        return self._output_folder.within(
            folder, folder_name(vm.name.removeprefix(attempt.item.name).strip(" ()") or "1")
        )

    def _tell(self, report: pytest.TestReport, attempt: _Attempt, machines: "Sequence[VirtualMachine]") -> None:
        self._bring(attempt)
        folders = [str(self._way.home(evidence.folder)) for evidence in attempt.saved.values()]
        frames = [
            str(self._way.home(path)) for paths in attempt.networks.values() for path in paths if path.suffix != ".txt"
        ]
        if lines := [self.shown(path) for path in (*folders, *frames)] + attempt.complaints:
            report.sections.append((_TITLE, "\n".join(lines)))
        incident = Incident(
            test=attempt.item.nodeid,
            when=report.when,
            attempt=attempt.number,
            headline=headline(report),
            machines=[vm.name for vm in machines],
            folders=folders,
            complaints=list(attempt.complaints),
            outputs=[] if self._way.is_elsewhere else [str(output) for output in attempt.folders],
        )
        vars(report)[INCIDENT] = dataclasses.asdict(incident)
        integrations.attach(self._config, report, list(attempt.saved.values()), self._way.home)

    def _output(self, config: VmConfig) -> Path:
        return Path(self._config.invocation_params.dir) / config.output


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]


def _is_on(config: VmConfig) -> bool:
    return config.evidence != "off" or config.capsule != "never"


def _is_wanted(config: VmConfig, report: pytest.TestReport) -> bool:
    if report.failed:
        return _is_on(config)
    return config.evidence == "on" and report.when == "call"
