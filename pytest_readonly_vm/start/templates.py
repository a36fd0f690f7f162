"""Owns the templates of one run: which there are, and how each is made once: from the cache, by a boot, by a layer."""

import os
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial

from pytest_readonly_vm.config.qemu_args import what_no_copy_has
from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.host.os_errors import host_errors
from pytest_readonly_vm.host.stopwatch import Part
from pytest_readonly_vm.image import sparse
from pytest_readonly_vm.image.contents import ContentDigests
from pytest_readonly_vm.qemu.command_line import RamWire
from pytest_readonly_vm.qemu.instance import Instance
from pytest_readonly_vm.qemu.launch import InitialState
from pytest_readonly_vm.qemu.spec import MachineSpec
from pytest_readonly_vm.start.archive import Archive
from pytest_readonly_vm.start.freeze import freeze
from pytest_readonly_vm.start.key import keys_of
from pytest_readonly_vm.start.maker import Maker
from pytest_readonly_vm.start.migration import Unfrozen
from pytest_readonly_vm.start.template import Reads, Template, new_ram

_QUICK = 0.5
"""Seconds: a guest that boots in less is not worth a template."""

_NOT_BETTER = f"it boots in less than {_QUICK:g} s, which a copy would not better"


class Refused(Unfrozen):
    """A machine that was booted to become a template and cannot be one. It runs, as `instance`."""

    def __init__(self, reason: str, instance: Instance, *, layers: int = 0) -> None:
        super().__init__(reason)
        self.instance = instance
        self.layers = layers
        """How many of its layers it has."""


class Templates:
    """Makes templates when they are first asked for. Several threads may ask at once."""

    def __init__(
        self,
        maker: Maker,
        archive: Callable[[VmConfig], Archive | None],
        on_made: Callable[[Instance], None],
    ) -> None:
        """`archive` gives the templates of earlier runs, or None if there are to be none.

        `on_made` hears of each machine that was frozen, to go on from there.
        """
        self._maker = maker
        self._stopwatch = maker.resources.stopwatch
        self._archive = archive
        self._on_made = on_made
        self._digests = ContentDigests()
        self._made: dict[str, Template] = {}
        self._refused: dict[str, str] = {}
        self._quick: set[str] = set()  # to boot, so that only who insists has them frozen
        self._loaded: set[str] = set()
        self._distrusted: list[Template] = []  # not closed yet, as another thread may be using one at this moment
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def get(self, spec: MachineSpec, *, even_if_quick: bool) -> Template:
        """The template of a machine that is ready, and has its layers.

        :param even_if_quick: whether to freeze a guest that boots faster than a clone would be worth.
        :raises Refused: a machine was booted that cannot be frozen.
        :raises Unfrozen: such a machine cannot be frozen, as is known already.
        """
        if reason := what_no_copy_has(spec.config.qemu_args):
            raise Unfrozen(reason)
        spec = replace(spec, cards=())  # which are plugged into copies, so that they have one template
        keys = keys_of(spec)
        if not even_if_quick and keys[-1] in self._quick and keys[-1] not in self._made:
            raise Unfrozen(_NOT_BETTER)
        return self._get(spec, keys, even_if_quick)

    def freezable(self, spec: MachineSpec) -> tuple[Instance, int | None]:
        """A machine that is ready, has its layers, and is to be frozen by whoever asks; and its RAM, to be closed.

        :raises Unfrozen: such a machine cannot be frozen.
        """
        try:
            template = self.get(spec, even_if_quick=True)
        except Refused as refused:
            self._maker.discard(refused.instance)
            raise Unfrozen(str(refused)) from None
        with _memory(_copied(template.ram, spec.config.memory) if template.ram is not None else None) as ram:
            return self._maker.clone(spec, template, ram=ram, freezable=True), ram

    def _get(self, spec: MachineSpec, keys: list[str], even_if_quick: bool) -> Template:
        *below, key = keys
        with self._locks[key], self._archived(spec, key, steps=len(keys)) as archive:
            if reason := self._refused.get(key):
                raise Unfrozen(reason)
            if key not in self._made and archive is not None and (found := self._kept(archive, key, spec)):
                self._made[key] = found
                self._loaded.add(key)
            if key not in self._made:
                with self._stopwatch.part(Part.LAYERS if below else Part.BOOTING):
                    if below:
                        made = self._layered(spec, key, self._get(spec, below, even_if_quick=True), len(below) - 1)
                    else:
                        made = self._booted(spec, key, even_if_quick)
                    self._made[key] = made
                    if archive is not None:
                        archive.save(key, made, spec, layers=len(below))
            return self._made[key]

    @contextmanager
    def _archived(self, spec: MachineSpec, key: str, *, steps: int) -> Iterator[Archive | None]:
        """The archive, if there is one, with nobody else at work on this key, when there is something to be made.

        Another process is given the time of a boot for each of the steps; who then does not have it makes its own.
        """
        if key in self._made and not self._are_current(self._made[key].reads):
            self._distrusted.append(self._made.pop(key))
        archive = self._archive(spec.config) if key not in self._made and key not in self._refused else None
        if archive is None:
            yield None
        else:
            patience = spec.config.boot_timeout * spec.slowness * steps
            with ExitStack() as held:
                with self._stopwatch.part(Part.OTHERS):
                    is_ours = held.enter_context(archive.lock(key, patience=patience))
                yield archive if is_ours else None

    def _kept(self, archive: Archive, key: str, spec: MachineSpec) -> Template | None:
        new_folder = partial(self._maker.resources.new_folder, spec.config)
        with self._stopwatch.part(Part.KEPT):
            return archive.load(key, is_current=self._are_current, new_folder=new_folder)

    def _booted(self, spec: MachineSpec, key: str, even_if_quick: bool) -> Template:
        with _memory(new_ram(spec.config.memory) if has_one_ram(spec.config) else None) as ram:
            wire = RamWire(ram, writable=True) if ram is not None else None
            instance = self._maker.booted(spec, InitialState(named_overlay=True, ram=wire))
            if not even_if_quick and instance.ready_after < _QUICK:
                self._quick.add(key)
                raise Refused(_NOT_BETTER, instance)
            try:
                with self._maker.giving_up(instance):
                    template = self._frozen(instance, ram)
                    self._on_made(instance)
                    return template
            except Unfrozen as unfrozen:
                self._refused[key] = str(unfrozen)
                raise Refused(str(unfrozen), instance) from None

    def _are_current(self, reads: Reads) -> bool:
        """Whether files of the host have in them what they had."""
        return all(self._digests.digest_or_reason(path) == known for path, known in reads.items())

    def _layered(self, spec: MachineSpec, key: str, below: Template, number: int) -> Template:
        """Run the function of a layer in a machine that goes on from the template below, and freeze that."""
        with _memory(_copied(below.ram, spec.config.memory) if below.ram is not None else None) as ram:
            instance = self._maker.clone(spec, below, ram=ram, freezable=True)
            try:
                with self._maker.giving_up(instance), self._maker.making_layer(instance, number):
                    reads = {**below.reads, **self._maker.make_layer(instance, number, self._digests)}
                    template = replace(self._frozen(instance, ram), reads=reads)
                    self._on_made(instance)
                    return template
            except Unfrozen as unfrozen:
                self._refused[key] = str(unfrozen)
                raise Refused(str(unfrozen), instance, layers=number + 1) from None

    @host_errors("the guest cannot be frozen")
    def _frozen(self, instance: Instance, ram: int | None) -> Template:
        [template] = self._maker.resources.loop.run(freeze([instance], [ram])).templates
        return template

    def take_changed(self) -> list[str]:
        """What happened to templates' files since they were frozen. Such a template is not used any more."""
        changed = {key: found for key, template in list(self._made.items()) if (found := template.difference())}
        for key in changed:
            self._distrusted.append(self._made.pop(key))
        return list(changed.values())

    def has(self, spec: MachineSpec) -> bool:
        """Whether the template of such a machine is there by now, and is what would be made now."""
        key = keys_of(spec)[-1]
        made = self._made.get(key)
        return made is not None and key not in self._refused and self._are_current(made.reads)

    def refuse(self, spec: MachineSpec, reason: str) -> None:
        """Do without the template of such a machine from now on, for a reason that turned up when it was used."""
        self._refused[keys_of(spec)[-1]] = reason

    def distrust(self, spec: MachineSpec) -> bool:
        """Forget what of such a machine is from an earlier run, here and there, and say whether there was something."""
        archive = self._archive(spec.config)
        found = [key for key in keys_of(spec) if key in self._loaded]
        for key in found:
            with self._locks[key]:
                self._loaded.discard(key)
                if archive is not None:
                    archive.remove(key)
                if template := self._made.pop(key, None):
                    self._distrusted.append(template)
        return bool(found)

    def close(self) -> None:
        for template in (*self._made.values(), *self._distrusted):
            template.close()
        self._made.clear()
        self._distrusted.clear()


def has_one_ram(config: VmConfig) -> bool:
    """Whether QEMU can be given memory for all of the guest's RAM; else the state has a copy of it."""
    texts = (config.machine or "", *config.qemu_args)
    return not any("memory-backend" in text or text.lstrip("-") == "numa" for text in texts)


@contextmanager
def _memory(ram: int | None) -> Iterator[int | None]:
    """Memory for a template, which is given back if the template does not come about."""
    try:
        yield ram
    except BaseException:
        if ram is not None:
            os.close(ram)
        raise


@host_errors("a guest's memory cannot be copied")
def _copied(ram: int, size: int) -> int:
    """Memory with the content of other, holes kept, that is not sealed."""
    copied = new_ram(size)
    try:
        sparse.copy(ram, copied)
    except BaseException:
        os.close(copied)
        raise
    return copied


def without_name(instance: Instance) -> None:
    """Take the name of a machine's overlay away, as a temporary snapshot's file has none."""
    if instance.overlay is not None:
        instance.overlay.unlink()
        instance.overlay = None
