"""Owns the templates of one run: which there are, and how each is made once: from the cache, by a boot, by a layer."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from pytest_readonly_vm.config.qemu_args import what_no_copy_has
from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.host.os_errors import host_errors
from pytest_readonly_vm.host.stopwatch import Part
from pytest_readonly_vm.image import sparse
from pytest_readonly_vm.qemu.command_line import RamWire
from pytest_readonly_vm.qemu.instance import Instance
from pytest_readonly_vm.qemu.launch import InitialState
from pytest_readonly_vm.qemu.spec import MachineSpec
from pytest_readonly_vm.start.archive import Archive
from pytest_readonly_vm.start.freeze import freeze
from pytest_readonly_vm.start.frozen import FrozenOnes
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
        self._archive = archive
        self._on_made = on_made
        self._made = FrozenOnes[Template](maker.resources.stopwatch)
        self._refused: dict[str, str] = {}
        self._quick: set[str] = set()  # to boot, so that only who insists has them frozen

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

    def freezable(self, spec: MachineSpec) -> tuple[Instance, int | None, Reads]:
        """A machine that is ready, has its layers, and is to be frozen by whoever asks; its RAM, to be closed; and what
        of the host's files its layers have read.

        :raises Unfrozen: such a machine cannot be frozen.
        """
        try:
            template = self.get(spec, even_if_quick=True)
        except Refused as refused:
            self._maker.discard(refused.instance)
            raise Unfrozen(str(refused)) from None
        with _memory(_copied(template.ram, spec.config.memory) if template.ram is not None else None) as ram:
            return self._maker.clone(spec, template, ram=ram, freezable=True), ram, template.reads

    def _get(self, spec: MachineSpec, keys: list[str], even_if_quick: bool) -> Template:
        *below, key = keys

        def make() -> Template:
            if reason := self._refused.get(key):
                raise Unfrozen(reason)
            if not below:
                return self._booted(spec, key, even_if_quick)
            return self._layered(spec, key, self._get(spec, below, even_if_quick=True), len(below) - 1)

        return self._made.get(
            key,
            lambda: self._archive(spec.config) if spec.is_lasting and key not in self._refused else None,
            patience=spec.config.boot_timeout * spec.slowness * len(keys),  # a boot's time for each of the steps
            is_current=lambda template: self._made.digests.has_read(template.reads),
            load=lambda archive: self._kept(archive, key, spec, layers=len(below)),
            make=make,
            save=lambda archive, template: archive.save(key, template, spec, layers=len(below)),
            part=Part.LAYERS if below else Part.BOOTING,
        )

    def _kept(self, archive: Archive, key: str, spec: MachineSpec, *, layers: int) -> Template | None:
        resources = self._maker.resources
        with resources.stopwatch.part(Part.KEPT):
            new_folder = partial(resources.new_folder, spec.config)
            return archive.load(key, spec, layers=layers, digests=self._made.digests, new_folder=new_folder)

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

    def _layered(self, spec: MachineSpec, key: str, below: Template, number: int) -> Template:
        """Run the function of a layer in a machine that goes on from the template below, and freeze that."""
        with _memory(_copied(below.ram, spec.config.memory) if below.ram is not None else None) as ram:
            instance = self._maker.clone(spec, below, ram=ram, freezable=True)
            try:
                with self._maker.giving_up(instance), self._maker.making_layer(instance, number):
                    reads = {**below.reads, **self._maker.make_layer(instance, number, self._made.digests)}
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
        return self._made.take_changed()

    def has(self, spec: MachineSpec) -> bool:
        """Whether the template of such a machine is there by now, and is what would be made now."""
        key = keys_of(spec)[-1]
        made = self._made.known(key)
        return made is not None and key not in self._refused and self._made.digests.has_read(made.reads)

    def refuse(self, spec: MachineSpec, reason: str) -> None:
        """Do without the template of such a machine from now on, for a reason that turned up when it was used."""
        self._refused[keys_of(spec)[-1]] = reason

    def distrust(self, spec: MachineSpec) -> bool:
        """Forget what of such a machine is from an earlier run, here and there, and say whether there was something."""
        archive = self._archive(spec.config)
        found = [self._made.distrust(key, archive) for key in keys_of(spec)]
        return any(found)

    def close(self) -> None:
        self._made.close()


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
    """Take the names of a machine's overlays away, as a temporary snapshot's file has none."""
    for disk in instance.disks:
        if disk.overlay is not None:
            disk.overlay.unlink()
            disk.overlay = None
