"""Owns the passage of templates into the cache on disk and out of it, from one run to another."""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pytest_readonly_vm.channels.console import Transcript
from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.errors import VmError
from pytest_readonly_vm.host.entries import portable
from pytest_readonly_vm.host.once import OncePerKey
from pytest_readonly_vm.host.os_errors import explain
from pytest_readonly_vm.image.contents import ContentDigests
from pytest_readonly_vm.image.image_file import Fingerprint, ImageFile
from pytest_readonly_vm.qemu.card import Card
from pytest_readonly_vm.qemu.drive import drive_of
from pytest_readonly_vm.qemu.resources import in_the_budget
from pytest_readonly_vm.qemu.spec import MachineSpec
from pytest_readonly_vm.start.cache import Damaged, Entry, TemplateCache, default_folder
from pytest_readonly_vm.start.cluster_state import ClusterState, MachineState
from pytest_readonly_vm.start.elsewhere import Elsewhere
from pytest_readonly_vm.start.freeze import Moment
from pytest_readonly_vm.start.recipe import Recipe, Untravelled
from pytest_readonly_vm.start.template import Reads, Template
from pytest_readonly_vm.start.travel import READS, RECIPE, Origin, facts_of, members_here, reads_here

T = TypeVar("T")

_RAM, _STATE, _CONSOLE, _KEY, _DISK = "ram", "state", "console", "ssh-key", "{}-{}"
_UNDER_WAY = "network{}"


class Archive:
    """The templates of earlier runs, and of others at this moment."""

    def __init__(self, cache: TemplateCache, tell: Callable[[str], None], elsewhere: "Elsewhere | None" = None) -> None:
        """`tell` is given sentences for people: that another process is waited for, that something was not kept.

        `elsewhere` has those of other computers, if somebody has asked for that.
        """
        self._cache = cache
        self._tell = tell
        self._elsewhere = elsewhere
        self._from: dict[str, str] = {}
        """The entries from other computers that were taken for templates of this one, by their keys."""

    def lock(self, key: str, *, patience: float) -> AbstractContextManager[bool]:
        """Nobody else makes or loads the template of this key meanwhile, in whatever process, if this gives True.

        Others are waited for; not those that stand still, nor those that may wait for room that this process has, and
        none for longer than `patience`, in seconds.
        """
        return self._cache.lock(key, on_wait=self._tell, patience=patience, room=in_the_budget)

    def load(
        self, key: str, spec: MachineSpec, *, layers: int, digests: ContentDigests, new_folder: Callable[[], Path]
    ) -> Template | None:
        """The template of a key, if it is there, whole, and made of files that are still the same; else it is removed.

        If there is none, one of another computer that is made of the same and fits this one.

        `new_folder` makes one for files with a name.
        """

        def template(entry: Entry, opened: ExitStack) -> Template:
            return _template(entry, entry.facts, "", new_folder, opened)

        def here(template: Template, facts: Mapping[str, Any], reads: Reads) -> Template:
            return replace(template, reads=reads)

        origin = Origin(lambda: Recipe.of(spec, layers=layers), spec.config.layers[:layers])
        return self._load(key, digests.has_read, template) or self._travelled(key, origin, digests, template, here)

    def load_cluster(
        self,
        key: str,
        origin: Origin,
        *,
        specs: Callable[[Sequence[MachineState]], Sequence[MachineSpec]],
        digests: ContentDigests,
        new_folder: Callable[[], Path],
    ) -> ClusterState | None:
        """The same of a cluster. `specs` gives what its machines take."""

        def cluster(entry: Entry, opened: ExitStack) -> ClusterState:
            templates = [
                _template(entry, facts, f"{number}-", new_folder, opened)
                for number, facts in enumerate(entry.facts["templates"])
            ]
            under_way = []
            for number in range(len(entry.facts["networks"])):
                under_way.append(entry.load_sealed(_UNDER_WAY.format(number)))
                opened.callback(os.close, under_way[-1])
            moment = Moment(tuple(templates), tuple(under_way))
            return ClusterState.of(entry.facts, moment)

        def here(state: ClusterState, facts: Mapping[str, Any], reads: Reads) -> ClusterState:
            machines = members_here(state.machines, facts, specs(state.machines))
            return replace(state, machines=machines, reads=reads)

        return self._load(key, digests.has_read, cluster) or self._travelled(key, origin, digests, cluster, here)

    def _travelled(
        self,
        key: str,
        origin: Origin,
        digests: ContentDigests,
        make: Callable[[Entry, ExitStack], T],
        here: Callable[[T, Mapping[str, Any], Reads], T],
    ) -> T | None:
        """What another computer has made of the same, from our folder or from there.

        :param here: makes of it what this computer would have made.
        """
        if key in self._from or (self._elsewhere is None and not self._cache.has_travelled):
            return None
        try:
            recipe = origin.recipe().resolved()
        except Untravelled as bound:
            if self._elsewhere is not None:
                self._elsewhere.tell(f"no frozen guest of another computer is used: {bound}")
            return None
        name = portable(recipe.name)
        if self._elsewhere is not None and self._cache.find(name) is None:
            self._elsewhere.fetch(recipe, self._cache)

        def travelled(entry: Entry, opened: ExitStack) -> T:
            if Recipe.read(entry.facts[RECIPE]).told() != recipe.told():
                raise Damaged("it is made of something else than its name says")
            reads = reads_here(entry.facts, origin.prepared, digests)
            return here(make(entry, opened), entry.facts, reads)

        found = self._load(name, lambda reads: True, travelled)
        if found is not None:
            self._from[key] = name
        return found

    def _load(self, key: str, is_current: Callable[[Reads], bool], make: Callable[[Entry, ExitStack], T]) -> T | None:
        entry = self._cache.find(key)
        if entry is None:
            return None
        with ExitStack() as opened:
            try:
                if not is_current(entry.facts[READS]):
                    raise Damaged("it is made of files that have changed since")
                made = make(entry, opened)
            except OSError as error:
                self._tell(f"the frozen guest of an earlier run is not used: {explain(error)}")
                return None
            except (Damaged, KeyError, IndexError, TypeError, ValueError, AttributeError):
                self._cache.remove(key)
                return None
            opened.pop_all()
        return made

    def remove(self, key: str) -> None:
        """Have the template of a key made anew by whoever needs it next."""
        self._cache.remove(self._from.get(key, key))

    def save(self, key: str, template: Template, spec: MachineSpec, *, layers: int) -> None:
        """Keep a template for later runs; where that is not possible, say why, and go on without."""
        description = _description(spec)
        if layers:
            description["layer"] = " + ".join(map(str, spec.config.layers[:layers]))
        with ExitStack() as opened:
            travels = facts_of(Origin(lambda: Recipe.of(spec, layers=layers), spec.config.layers[:layers]))
            self._add(key, _files(template, spec, "", opened), description, {**_facts(template), **travels})

    def save_cluster(
        self, key: str, state: ClusterState, specs: Sequence[MachineSpec], origin: Origin, *, name: str
    ) -> None:
        """The same of a cluster, called `name`."""
        with ExitStack() as opened:
            files: dict[str, int] = {}
            for number, (template, spec) in enumerate(zip(state.moment.templates, specs, strict=True)):
                files |= _files(template, spec, f"{number}-", opened)
            files |= {_UNDER_WAY.format(number): one for number, one in enumerate(state.moment.under_way)}
            facts = {**state.facts(), "templates": [_facts(template) for template in state.moment.templates]}
            facts |= facts_of(origin, state.machines, specs)
            description = {**_description(specs[0]), "cluster": f"{name} of {len(specs)}"}
            self._add(key, files, description, facts)

    def _add(self, key: str, files: dict[str, int], description: dict[str, str], facts: dict[str, Any]) -> None:
        try:
            self._cache.add(key, files, description=description, facts=facts)
        except OSError as error:
            self._tell(f"the frozen guest is not kept for later runs: {error.strerror or error}")


def _description(spec: MachineSpec) -> dict[str, str]:
    config = spec.config
    return {
        "image": str(config.boots),
        "machine": f"{config.memory >> 20}M, {config.cpus} CPU, {spec.hypervisor.accelerator.name}",
        "qemu": f"{spec.hypervisor.qemu.version} {spec.hypervisor.qemu.arch}",
    }


def _facts(template: Template) -> dict[str, Any]:
    return {
        "layers": {name: len(files) for name, files in template.overlays.items()},
        "has_named_ram": template.has_named_ram,
        "cards": [dataclasses.asdict(card) for card in template.cards],
        "unread": template.transcript.unread,
        "conversation": template.conversation,
        "ready_after": template.ready_after,
        "boot_phases": template.boot_phases,
        READS: dict(template.reads),
    }


def _files(template: Template, spec: MachineSpec, prefix: str, opened: ExitStack) -> dict[str, int]:
    """Descriptors of what is kept of a template, by the names of the files."""
    files = {_STATE: template.state, _CONSOLE: _memory(template.transcript.data, opened)}
    if template.ram is not None:
        files[_RAM] = template.ram
    if spec.config.channel == "ssh" and template.ssh_key is not None:
        files[_KEY] = _memory(template.ssh_key.read_bytes(), opened)
        files[f"{_KEY}.pub"] = _memory(template.ssh_key.with_suffix(".pub").read_bytes(), opened)
    for name, overlays in template.overlays.items():
        files |= {_DISK.format(drive_of(name), number): file.descriptor for number, file in enumerate(overlays)}
    return {f"{prefix}{name}": descriptor for name, descriptor in files.items()}


class Archives:
    """The archive that a configuration asks for."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._opened: OncePerKey[tuple[object, ...], Archive | None] = OncePerKey()

    def of(self, config: VmConfig) -> Archive | None:
        """None if there is to be none, and where it cannot be had, which is said once."""
        if config.no_cache:
            return None
        decisive = (config.cache, config.cache_size, config.cache_from, config.cache_signers, config.cache_unsigned)
        return self._opened.get(decisive, lambda: self._open(config))

    def _open(self, config: VmConfig) -> Archive | None:
        try:
            cache = TemplateCache(config.cache or default_folder(), limit=config.cache_size)
            return Archive(cache, self._tell, Elsewhere(config, self._tell) if config.cache_from else None)
        except VmError as error:
            self._tell(f"frozen guests are not kept for later runs: {error}")
            return None


def _template(
    entry: Entry, facts: dict[str, Any], prefix: str, new_folder: Callable[[], Path], opened: ExitStack
) -> Template:
    def kept(descriptor: int) -> int:
        opened.callback(os.close, descriptor)
        return descriptor

    def overlay(name: str) -> ImageFile:
        descriptor = kept(entry.open_verified(name))
        return ImageFile(entry.folder / name, "qcow2", descriptor, Fingerprint.of(os.fstat(descriptor)))

    overlays = {
        name: tuple(overlay(f"{prefix}{_DISK.format(drive_of(name), number)}") for number in range(count))
        for name, count in facts["layers"].items()
    }
    key = None
    if f"{prefix}{_KEY}" in entry.digests:
        key = new_folder() / _KEY
        for name in (_KEY, f"{_KEY}.pub"):
            with os.fdopen(os.open(key.with_name(name), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(_content(entry.load_sealed(f"{prefix}{name}")))
    channel, *parted = facts["conversation"] or [None]
    return Template(
        ram=kept(entry.load_sealed(f"{prefix}{_RAM}")) if f"{prefix}{_RAM}" in entry.digests else None,
        state=kept(entry.load_sealed(f"{prefix}{_STATE}")),
        overlays=overlays,
        has_named_ram=bool(facts["has_named_ram"]),
        cards=tuple(Card.of(card) for card in facts["cards"]),
        transcript=Transcript(_content(entry.load_sealed(f"{prefix}{_CONSOLE}")), str(facts["unread"])),
        conversation=(channel, parted[0]) if channel else None,
        ready_after=float(facts["ready_after"]),
        boot_phases=dict(facts["boot_phases"]),
        reads=facts[READS],
        ssh_key=key,
    )


def _memory(data: bytes, opened: ExitStack) -> int:
    descriptor = os.memfd_create("template", os.MFD_CLOEXEC)
    opened.callback(os.close, descriptor)
    os.write(descriptor, data)
    return descriptor


def _content(descriptor: int) -> bytes:
    with os.fdopen(descriptor, "rb") as file:
        file.seek(0)
        return file.read()
