"""Owns a run whose workers are on other hosts, as the controller has it: who may take part, and what is said of whom.

Everything by hooks of xdist's that are documented, but for two names: `roots`, so that it copies nothing, and what
pytest was called with. Both are left alone where they are not what is expected.
"""

import contextlib
import dataclasses
import inspect
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePath
from typing import Any

import pytest

from pytest_readonly_vm.plugin.given import given_images, given_settings
from pytest_readonly_vm.plugin.hosts.homeward import Delivery
from pytest_readonly_vm.plugin.hosts.line import HERE, HOST, LINE
from pytest_readonly_vm.plugin.hosts.probe import Question, ask_all, is_reachable
from pytest_readonly_vm.plugin.hosts.remembered import REMEMBERED, remembered
from pytest_readonly_vm.plugin.hosts.same_bases import Compared
from pytest_readonly_vm.plugin.incident import INCIDENT
from pytest_readonly_vm.plugin.news import NEWS
from pytest_readonly_vm.plugin.run import Run
from pytest_readonly_vm.printable import count, line

_FOLDER_OF_XDIST = "pyexecnetcache"
"""What xdist names in the home of a host where nobody names a folder; nothing is there."""
_SSH_OPTIONS = "-o BatchMode=yes -o ConnectTimeout=20 -o ServerAliveInterval=15 -o ServerAliveCountMax=3"
"""Behind what the user gives, which counts first: nobody is asked for a password, a dead host is known in a minute."""
_MOST_EARLY = 3
"""Workers that end before they have collected, on one host, until no more are started there."""


@dataclass(slots=True)
class _Host:
    """One host, as far as it is told of at the end."""

    name: str
    workers: int = 0
    tests: int = 0
    seconds: float = 0.0
    machines: dict[str, int] = field(default_factory=dict)
    """How many came to be in each way."""
    early: int = 0
    """How many workers ended before they had collected."""
    lost: str = ""


class Hosts:
    """The hosts of a run."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._hosts: dict[str, _Host] = {}
        self._specs: list[Any] = []
        """Of the workers that were started, as they are."""
        self._refused: dict[str, str] = {}
        self._names: dict[str, str] = {}
        """Of the host of each worker, by the worker's id."""
        self._ready: set[str] = set()
        """The workers that have collected."""
        self._given = config.invocation_params
        self._compared = Compared()
        self._first: tuple[str, tuple[str, ...]] | None = None
        """Who has collected first, and what."""
        self._deliveries: dict[str, Delivery] = {}
        self._is_ours = False
        """Whether the worker that is being started is on another host."""

    def admit(self, specs: list[Any]) -> None:
        """Before any worker is started: ask every host, and keep those where tests can run.

        :param specs: execnet's, of all workers; those of other hosts are completed, or removed.
        :raises pytest.UsageError: there is no host left.
        """
        # Tests without machines are not to miss here what they do not need.
        is_needed = bool(given_settings(self._config) or given_images(self._config))
        questions: dict[tuple[object, ...], Question] = {}
        for spec in filter(is_far, specs):
            self._complete(spec)
            questions.setdefault(_place(spec), Question(spec, self._arguments(), is_needed))
        names = dict.fromkeys(name_of(question.spec) for question in questions.values())
        self._say(f"vm: asking {', '.join(names)}")
        verdicts = dict(zip(questions, ask_all(list(questions.values())), strict=True))
        for place, verdict in verdicts.items():
            name = name_of(questions[place].spec)
            if verdict.refused is not None:
                self._refused[f"{name} is not used: {verdict.refused}"] = name
                self._say(f"vm: {name} is not used: {verdict.refused}", red=True)
            for text in verdict.lines:
                self._say(f"{name}: {text}")
        specs[:] = [spec for spec in specs if not is_far(spec) or verdicts[_place(spec)].refused is None]
        if not specs:
            raise pytest.UsageError("; ".join(map(line, self._refused)))
        self._config.option.tx = [str(spec) for spec in specs]  # by which xdist's schedulers count the workers
        self._specs = list(specs)
        manager = getattr(self._config.pluginmanager.get_plugin("dsession"), "nodemanager", None)
        if manager is not None:
            manager.roots = []

    def why_no_worker(self, error: BaseException) -> str:
        """What has ended the start of workers, which xdist would show as an internal error."""
        started = len(self._names)
        name = name_of(self._specs[started]) if started < len(self._specs) else "a host"
        words = line(str(error)) or type(error).__name__
        return f"{name}: worker {started + 1} cannot be started, and the host could be reached just before: {words}"

    def _complete(self, spec: Any) -> None:
        if not spec.chdir or spec.chdir == _FOLDER_OF_XDIST:
            spec.chdir = os.fspath(self._given.dir)
        if spec.ssh and _SSH_OPTIONS not in spec.ssh:
            spec.ssh = f"{spec.ssh} {_SSH_OPTIONS}"

    def _arguments(self) -> list[str]:
        """Those of pytest, with paths below this folder as seen from it, as the hosts have one like it."""
        here = os.fspath(self._given.dir)
        return [seen_from(here, os.fspath(argument)) for argument in self._given.args]

    def _say(self, text: str, **markup: bool) -> None:
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None and self._config.option.verbose >= 0:
            reporter.write_line(line(text), **markup)

    # As a plugin.

    @pytest.hookimpl(tryfirst=True)
    def pytest_xdist_newgateway(self, gateway: Any) -> None:
        name = name_of(gateway.spec)
        self._names[gateway.id] = name
        self._hosts.setdefault(name, _Host(name)).workers += 1
        self._is_ours = is_far(gateway.spec)
        if self._is_ours:  # xdist ends the run in an internal error if one of these is a path here
            self._config.invocation_params = dataclasses.replace(self._given, args=())

    @pytest.hookimpl(tryfirst=True)
    def pytest_configure_node(self, node: Any) -> None:
        self._config.invocation_params = self._given
        name, far = self._names[node.gateway.id], is_far(node.gateway.spec)
        channel = node.gateway.newchannel()
        if (delivery := Run.of(self._config).evidence.delivery() if far else None) is not None:
            self._deliveries[node.gateway.id] = delivery
        channel.setcallback(partial(self._hear, name, channel, delivery), endmarker=None)
        node.workerinput |= {LINE: channel, HOST: name, HERE: os.fspath(self._given.dir) if far else None}
        if self._is_ours:
            import xdist.remote  # type: ignore[import-untyped]

            node.workerinput |= {
                REMEMBERED: remembered(self._config),
                "readonly_vm_arguments": self._arguments(),
                "readonly_vm_program": inspect.getsource(xdist.remote),
            }

    @pytest.hookimpl(tryfirst=True)
    def pytest_xdist_getremotemodule(self) -> Any:
        if not self._is_ours:
            return None
        from pytest_readonly_vm.plugin.hosts import program

        return program

    def _hear(self, host: str, channel: Any, delivery: Delivery | None, message: Any) -> None:
        """What a worker sends, on execnet's thread, where an error would end the line without a word."""
        if message is None:
            if delivery is not None:
                delivery.drop()
            return
        if isinstance(message, bytes):
            if delivery is not None:
                delivery.take(message)
            return
        number, answer = 0, (False, "that is not understood")
        with contextlib.suppress(ValueError, TypeError, AttributeError):
            number, kind, *rest = message
            answer = self._answer(host, delivery, kind, rest)
        with contextlib.suppress(OSError):  # it has ended
            channel.send((number, answer))

    def _answer(self, host: str, delivery: Delivery | None, kind: str, rest: list[Any]) -> Any:
        if kind == "base":
            return self._compared.hear(host, *rest)
        if delivery is None:
            return False, "nothing is to come from here"
        try:
            do: dict[str, Callable[..., str]]
            do = {"claim": delivery.claim, "file": delivery.begin, "whole": delivery.finish}
            return True, do[kind](*rest)
        except OSError as error:
            return False, error.strerror or str(error)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: Any) -> None:
        """Say in what others show of a report where it is from; a host names no place for files of ours."""
        node = vars(report).get("node")
        if node is None or (name := self._names.get(node.gateway.id)) is None:
            return
        if self._compared.differences and (session := self._config.pluginmanager.get_plugin("dsession")) is not None:
            session.shouldstop = next(iter(self._compared.differences))  # no result after this is worth its time
        host = self._hosts[name]
        host.seconds += report.duration
        host.tests += report.when == "call"
        if report.when == "teardown" and any(key == "vm" for key, _ in report.user_properties):
            report.user_properties.append(("vm_host", name))
        for key, tell in ((INCIDENT, partial(self._tell_incident, node.gateway.id)), (NEWS, partial(_tell_news, host))):
            if key in vars(report):
                try:
                    tell(vars(report)[key])
                except (LookupError, TypeError, ValueError, AttributeError):  # what no worker of ours sends
                    del vars(report)[key]

    def _tell_incident(self, worker: str, incident: dict[str, Any]) -> None:
        if (delivery := self._deliveries.get(worker)) is not None:
            incident["outputs"] = []
            incident["folders"] = [folder for folder in incident["folders"] if delivery.has_claimed(folder)]

    @pytest.hookimpl(tryfirst=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: Any) -> None:
        """xdist says what two workers have found differently, and not of which hosts they are."""
        self._ready.add(node.gateway.id)
        first = self._first = self._first or (self._names[node.gateway.id], tuple(ids))
        if first[1] != tuple(ids) and first[0] != (name := self._names[node.gateway.id]):
            only = sorted(set(ids).symmetric_difference(first[1]))[:1] or ["the order"]
            raise pytest.UsageError(
                f"{name} has {count(len(ids), 'test')}, and {first[0]} {count(len(first[1]), 'test')}, which differ in "
                f"{line(only[0])}: both are to have the same checkout, and the same plugins"
            )

    @pytest.hookimpl(tryfirst=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """A worker has ended. If its host is gone, xdist is to start the next one on another, and not try for ever."""
        name = self._names.get(node.gateway.id, "")
        output: dict[str, Any] = getattr(node, "workeroutput", None) or {}
        if hashed := output.get(NEWS):
            output[NEWS] = {f"{name}:{path}": words and f"{name}: {words}" for path, words in hashed.items()}
        spec = node.gateway.spec
        if not error or not is_far(spec) or (why := self._why_gone(node, error)) is None:
            return
        self._hosts[name].lost = self._hosts[name].lost or why
        self._specs = [other for other in self._specs if not is_far(other) or name_of(other) != name]
        others = {name_of(other): other for other in self._specs}
        for other in list(others):
            if is_far(others[other]) and (gone := is_reachable(others[other])) is not None:
                self._hosts[other].lost = gone
                del others[other]
        if not others:
            pytest.exit(f"no host is left: {name} is gone: {line(why)}", returncode=pytest.ExitCode.TESTS_FAILED)
        fewest = min(others, key=lambda other: self._hosts[other].workers)
        for key in ("ssh", "vagrant_ssh", "ssh_config", "popen", "python", "chdir", "env", "nice"):
            setattr(spec, key, getattr(others[fewest], key))
        self._say(f"\nvm: {name} is gone: {why}; what its worker had to do goes to {fewest}", red=True)

    def _why_gone(self, node: Any, error: object) -> str | None:
        """Why no other worker is to be started where one has ended; None if that may go well."""
        host = self._hosts[self._names[node.gateway.id]]
        host.early += node.gateway.id not in self._ready
        if (why := is_reachable(node.gateway.spec)) is not None or host.early < _MOST_EARLY:
            return why
        # The next would end in the same way, and xdist would go on for ever.
        words = [words for words in str(error).splitlines() if words.strip()]
        return f"a worker ended there before it had collected tests: {line(words[-1]) if words else 'no reason given'}"

    def pytest_handlecrashitem(self, crashitem: str, report: Any, sched: Any) -> None:
        name = self._names.get(report.node.gateway.id)
        if name and isinstance(report.longrepr, str):
            report.longrepr += f" on {name}"

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._compared.differences and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        terminalreporter.write_sep("-", "hosts")
        for host in self._hosts.values():
            ways = {"boot": "booted", "clone": "cloned"}
            made = ", ".join(f"{number} {ways.get(how, line(how))}" for how, number in sorted(host.machines.items()))
            text = (
                f"{host.name}: {count(host.workers, 'worker')}, {count(host.tests, 'test')} in {host.seconds:.2f} s of "
                f"theirs; machines: {made or 'none'}{f'; GONE: {host.lost}' if host.lost else ''}"
            )
            terminalreporter.write_line(line(text), red=bool(host.lost))
        for text in (*self._refused, *(f"BASES DIFFER: {found}" for found in self._compared.differences)):
            terminalreporter.write_line(line(text), red=True)


def _tell_news(host: _Host, news: dict[str, Any]) -> None:
    """Have what a worker tells of machines say where they are."""
    name = host.name
    for boot in news["boots"]:
        boot["host"] = name
        host.machines[boot["manner"]] = host.machines.get(boot["manner"], 0) + 1
    for record in (*news["boots"], *news["layers"], *news["machines"]):
        record["name"] = f"{record['name']} on {name}"
    news["checked"] = [f"{name}:{path}" for path in news["checked"]]
    news["changed"] = {f"{name}:{path}": f"{name}: {words}" for path, words in news["changed"].items()}
    for kept in news["kept"]:
        kept["host"] = name


def is_far(spec: Any) -> bool:
    """Whether a specification of execnet's is of another host, which is reached by a command of its own."""
    return bool(spec.ssh or spec.vagrant_ssh)


def name_of(spec: Any) -> str:
    """What the host of a specification is called: as ssh is told, without its options."""
    if spec.vagrant_ssh:
        return line(str(spec.vagrant_ssh))
    if spec.ssh:
        words = str(spec.ssh).removesuffix(_SSH_OPTIONS).split()
        return line(words[-1]) if words else "?"
    return platform.node() or "here"


def _place(spec: Any) -> tuple[object, ...]:
    return spec.ssh, spec.vagrant_ssh, spec.ssh_config, spec.python, spec.chdir, tuple(spec.env.items())


def seen_from(here: str, argument: str) -> str:
    """An argument, or what is behind its sign of equality, as seen from a folder, if it is a path below that."""
    option, sign, value = argument.rpartition("=") if argument.startswith("-") else ("", "", argument)
    path, rest_sign, rest = value.partition("::")
    if not path.startswith("/") or not PurePath(path).is_relative_to(here):
        return argument
    return f"{option}{sign}{PurePath(path).relative_to(here)}{rest_sign}{rest}"
