"""Owns one pytest process's use of machines: its lab, when they start and end, what there is to tell of them."""

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from pytest_readonly_vm.config.setting import Given
from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.config.table import SCOPES
from pytest_readonly_vm.errors import ConfigurationError
from pytest_readonly_vm.host.once import OncePerKey
from pytest_readonly_vm.host.stopwatch import Part, Stopwatch
from pytest_readonly_vm.image.output_guard import OutputGuard
from pytest_readonly_vm.plugin.broken import BrokenMachines
from pytest_readonly_vm.plugin.evidence import EvidenceKeeper
from pytest_readonly_vm.plugin.given import given_images, given_settings
from pytest_readonly_vm.plugin.hosts.line import is_elsewhere
from pytest_readonly_vm.plugin.kept_overlays import KeptOverlays
from pytest_readonly_vm.plugin.lookahead import Lookahead
from pytest_readonly_vm.plugin.machine_record import machine_record
from pytest_readonly_vm.plugin.networks import NetworkKeeper
from pytest_readonly_vm.plugin.news import News
from pytest_readonly_vm.plugin.owners import give, machines_above, machines_of, owned_above
from pytest_readonly_vm.plugin.progress import Progress
from pytest_readonly_vm.plugin.timeouts import clock_of, pending
from pytest_readonly_vm.printable import line

if TYPE_CHECKING:
    from pytest_readonly_vm.image.bases import Compare
    from pytest_readonly_vm.machine.cluster import Cluster
    from pytest_readonly_vm.machine.lab import Lab
    from pytest_readonly_vm.machine.private_network import PrivateNetwork
    from pytest_readonly_vm.machine.vm import VirtualMachine

_run = pytest.StashKey["Run"]()
_shared = pytest.StashKey[dict[VmConfig, "VirtualMachine"]]()


class Run:
    """Everything that a pytest process holds of machines. Empty until a test wants a machine."""

    def __init__(self, config: pytest.Config, run_name: str) -> None:
        self._config = config
        self._labs: OncePerKey[None, Lab] = OncePerKey()
        self._checked: list[str] = []
        self._changed: dict[str, str] = {}
        self._failed: set[VirtualMachine] = set()
        self._used: set[VirtualMachine] = set()
        self._labels: dict[VirtualMachine, str] = {}
        self._broken = BrokenMachines()
        self._ended: list[dict[str, Any]] = []
        self.current: pytest.Item | None = None
        """The test that is being run."""
        self.output_guard = OutputGuard()
        """The way to places of the user's, which knows what the run reads."""
        self.protect(given_settings(config))
        for image in given_images(config):
            self.protect({"image": image})
        self._overlays = KeptOverlays(config, self.output_guard)
        self.stopwatch = Stopwatch()
        """Measures what this thread, which runs the tests, is busy with on behalf of machines."""
        self.evidence = EvidenceKeeper(config, run_name, self.output_guard, self.stopwatch)
        self.networks = NetworkKeeper(config, self.evidence, self.stopwatch, self._note_end)
        self.progress = Progress(config, self.tell)
        self.lookahead = Lookahead()
        self.compare: Compare | None = None
        """Refuses an image that is another one on another host."""
        self.on_start: list[Callable[[VirtualMachine], object]] = []
        """Called with each machine before it is handed over."""
        config.stash[_run] = self

    @classmethod
    def of(cls, config: pytest.Config) -> "Run":
        return config.stash[_run]

    @property
    def lab(self) -> "Lab":
        """The lab; asking for it is what loads asyncio, qemu.qmp and the rest."""
        return self._labs.get(None, self._new_lab)

    def _new_lab(self) -> "Lab":
        from pytest_readonly_vm.host.confinement import die_with_parent
        from pytest_readonly_vm.machine.lab import Lab

        if hasattr(self._config, "workerinput") and not is_elsewhere(self._config):
            # Nobody hears an xdist worker whose controller was killed, and it would wait out its test with the machine.
            die_with_parent()
        came_to_nothing = self.evidence.came_to_nothing
        lab = Lab(
            self.progress.transfer,
            self.tell,
            on_failure=lambda vm, error: came_to_nothing(vm, error, self.current),
            on_unmade=lambda config, error: self._broken.note_layer(config, self.current, error),
            output_guard=self.output_guard,
            watch=self.progress.watch,
            stopwatch=self.stopwatch,
            compare=self.compare,
        )
        self._config.add_cleanup(lab.close)
        self.networks.of_lab = lab.networks
        return lab

    @property
    def has_lab(self) -> bool:
        """Whether a test has asked for a machine so far."""
        return bool(self._labs.made())

    def protect(self, settings: Mapping[str, Given]) -> None:
        """Keep what some test may start a machine with from being written over, although none has done so yet."""
        with contextlib.suppress(ConfigurationError):  # which whoever wants the machine will hear of
            self.output_guard.protect(VmConfig().with_settings(settings))

    @contextlib.contextmanager
    def machine(
        self, config: VmConfig, node: Any, label: str, networks: "Sequence[PrivateNetwork]" = (), host: str = "vm"
    ) -> Iterator["VirtualMachine"]:
        """A booted machine that belongs to a node of the collection tree and ends when this is left.

        :param host: what others on its networks know it by, whatever it is called here.
        """
        asked = time.time()
        name = f"{node.name or 'session'}{f' ({label})' if label else ''}"
        with self._starting(config, node, label):
            vm = self.lab.start(config, name=name, networks=networks, host=host)
            self._take_over(config, vm)
        with self._kept_by(node, vm, label, asked):
            yield vm

    @contextlib.contextmanager
    def cluster(self, config: VmConfig, node: Any) -> Iterator["Cluster"]:
        """A cluster that belongs to a node of the collection tree and ends when this is left."""
        asked = time.time()
        with contextlib.ExitStack() as kept:
            with self._starting(config, node, ""):
                cluster = self.lab.start_cluster(config, name=node.name)
                kept.callback(cluster.close)
                self._take_over(config, cluster[0])
            kept.enter_context(self.networks.kept(cluster.networks, node))
            for vm, name in zip(cluster, cluster.names, strict=True):
                kept.enter_context(self._kept_by(node, vm, name, asked))
            yield cluster

    @contextlib.contextmanager
    def _kept_by(self, node: Any, vm: "VirtualMachine", label: str, asked: float) -> Iterator[None]:
        """A machine is a node's, until this is left, and it ends."""
        config = vm.config
        try:
            overlay = self._overlays.place(config, node, label)
        except ConfigurationError:
            vm.close()
            raise
        handed = time.time()
        try:
            give(node, vm)
            self._labels[vm] = label
            if vm.monitor_command:
                self.tell(f"{vm.name}: second monitor: {vm.monitor_command}")
            vm.begin_test()
            for hear in self.on_start:
                hear(vm)
            yield
        finally:
            wanted = config.keep == "always" or (config.keep == "on-failure" and vm in self._failed)
            destination = overlay if wanted else None
            self._failed.discard(vm)
            del self._labels[vm]
            self.evidence.ends(vm, self.current)
            with self.stopwatch.part(Part.ENDING):
                vm.close(keep_overlay_as=destination)
            if config.report:
                scope = label if label in SCOPES else "function"
                self._note_end(machine_record(vm, test=node.nodeid, scope=scope, asked=asked, handed=handed))
            if destination:
                self._overlays.note(vm, destination)

    @contextlib.contextmanager
    def _starting(self, config: VmConfig, node: Any, label: str) -> Iterator[None]:
        clock = clock_of(self.current)
        with (
            clock.stopped() if clock else contextlib.nullcontext(),
            self.stopwatch.part(Part.STARTING),
            self._broken.starting(config, self.current, node, label),
        ):
            self.evidence.begins(config)
            yield

    def _take_over(self, config: VmConfig, vm: "VirtualMachine") -> None:
        """The test's clock is to be as patient as this machine is slow."""
        if clock := clock_of(self.current):
            clock.take_over(config, vm.slowness)

    def shared_machine(
        self, config: VmConfig, node: pytest.Collector, label: str, networks: "Sequence[PrivateNetwork]"
    ) -> "VirtualMachine":
        """The machine of this configuration that a node has already, or a new one that ends when the node is left."""
        machines = node.stash.setdefault(_shared, {})
        if config not in machines:
            stack = contextlib.ExitStack()
            node.addfinalizer(stack.close)
            stack.callback(machines.pop, config, None)
            machines[config] = stack.enter_context(self.machine(config, node, label, networks))
        return machines[config]

    def tell(self, sentence: str) -> None:
        """Show a line in the terminal, whatever is captured, also from a worker of xdist. Any thread may."""
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        capture = self._config.pluginmanager.get_plugin("capturemanager")
        with self.progress.hidden(), capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
            if worker := getattr(self._config, "workerinput", None):  # which has a reporter that nobody hears
                print(f"[{worker['workerid']}] {line(sentence)}", file=sys.stderr, flush=True)
            elif reporter is not None:
                reporter.ensure_newline()
                reporter.write_line(line(sentence))
                reporter.flush()  # also where it is no terminal: it may tell why the run stands still

    def _note_end(self, record: dict[str, Any]) -> None:
        self._ended.append(record)

    def note_failure(self, machines: Iterable["VirtualMachine"]) -> None:
        """Remember for `keep` that a test failed which used these."""
        self._failed.update(machines)

    def reset_shared(self, item: pytest.Item) -> None:
        """Before a test: set back what others have used and it will share, where that is wanted.

        :raises VmError: that was not possible.
        """
        fixtures = getattr(item, "fixturenames", ())
        for vm in machines_above(item) if self.has_lab else ():
            scope = self._labels.get(vm, "")
            shared = f"readonly_vm_{scope}" in fixtures or ("readonly_vm" in fixtures and vm.config.scope == scope)
            if vm.config.reset == "each-test" and vm in self._used and shared:
                self._used.discard(vm)
                with self.stopwatch.part(Part.STARTING):
                    vm.reset()

    def hand_over(self, item: pytest.Item) -> None:
        """Before a test: what its shared machines have shown so far was before it."""
        for vm in machines_above(item) if self.has_lab else ():
            vm.begin_test()

    def check_broken(self, item: pytest.Item, scope: str | None = None) -> None:
        """Before a test; also when the `scope` of its `readonly_vm` is known, which fixtures and markers may say.

        :raises GuestBroken: a machine that it would share has come to its end under an earlier one.
        """
        if scope is None:
            given = given_settings(self._config).get("scope")
            scope = str(given.value) if given else "function"
        self._broken.check(item, scope)

    def note_use(self, item: pytest.Item) -> None:
        """After a test: remember which machines are no longer as they were, for `reset_shared` and `check_broken`."""
        if self.has_lab:
            self._broken.look(item, [(vm, node, self._labels.get(vm, "")) for vm, node in owned_above(item)])
            self._used.update(vm for vm in machines_above(item) if not vm.closed)
            self._used = {vm for vm in self._used if not vm.closed}

    def look_ahead(self) -> None:
        """Have the next test's machine started, if it is known."""
        if self.has_lab:
            with self.stopwatch.part(Part.STARTING):
                self.lab.expect(self.lookahead.expected())
                self.lab.ahead.make(self.lookahead.coming())

    def before_timeout(self, item: pytest.Item) -> list[str]:
        """Before pytest-timeout ends a test by an exception: save evidence; return what the test was waiting for."""
        if not self.has_lab:
            return []
        waits = pending([*machines_of(item), *self.lab.on_their_way()])
        self.evidence.save_first(item, machines_of(item), "timeout")
        return waits

    def last_words(self, item: pytest.Item) -> None:
        """Before pytest-timeout ends this process from another thread: say why, and leave nothing behind."""
        if clock := clock_of(item):
            self.tell(f"{item.nodeid}: {clock.explain()}")
        if self.has_lab:
            machines = [*machines_of(item), *self.lab.on_their_way()]
            for words in (*pending(machines), *self.evidence.save_now(item, machines, "timeout")):
                self.tell(f"{item.nodeid}: {words}")
            self.lab.close()

    def check_bases(self, item: pytest.Item) -> None:
        """Prove, when a test has ended, that the bases are what they were.

        :raises BaseImageChanged: one is not.
        """
        if self.has_lab:
            before = self.lab.broken_bases
            try:
                with self.stopwatch.part(Part.CHECKING):
                    self._checked += map(str, self.lab.check_bases(during=item.nodeid))
            finally:
                now = self.lab.broken_bases
                self._changed.update({str(path): now[path] for path in now if path not in before})

    def take_news(self, during: dict[str, float]) -> News | None:
        """What happened since the last call, for the next report; None when nothing did.

        :param during: what the stopwatch has measured in the phase that the report is on.
        """
        if not self.has_lab:
            return None
        made: tuple[list[Any], ...] = (self.lab.boots, self.lab.layers)  # to which a thread may be adding one
        boots, layers = ([dataclasses.asdict(some.pop(0)) for _ in range(len(some))] for some in made)
        news = News(
            boots=boots,
            layers=layers,
            checked=self._checked,
            changed=self._changed,
            kept=self._overlays.take(),
            machines=self._ended,
            during=during,
            after=self.stopwatch.take(),
        )
        self._checked, self._changed, self._ended = [], {}, []
        return news if any(news.values()) else None
