"""Owns the templates of one run: which there are, and how each is made once: from the cache, by a boot, by a layer."""

import os
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from pytest_readonly_vm.config.qemu_args import what_no_copy_has
from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.host.os_errors import host_errors
from pytest_readonly_vm.image import sparse
from pytest_readonly_vm.image.contents import Contents
from pytest_readonly_vm.qemu.command_line import RamWire
from pytest_readonly_vm.qemu.instance import Instance
from pytest_readonly_vm.qemu.launch import InitialState, Order
from pytest_readonly_vm.start.archive import Archive
from pytest_readonly_vm.start.clone import clone
from pytest_readonly_vm.start.cold import booted, give_up
from pytest_readonly_vm.start.key import keys_of
from pytest_readonly_vm.start.layers import Reads, are_current, make_layer, tell_unmade
from pytest_readonly_vm.start.template import Template, Unfrozen, freeze, new_ram

_QUICK = 0.5
"""Seconds: a guest that boots in less is not worth a template."""


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
        archive: Callable[[VmConfig], Archive | None],
        on_boot: Callable[[Order, Instance], None],
    ) -> None:
        """`archive` gives the templates of earlier runs, or None if there are to be none.

        `on_boot` hears of each machine that was booted to be frozen.
        """
        self._archive = archive
        self._on_boot = on_boot
        self._contents = Contents()
        self._made: dict[str, Template] = {}
        self._refused: dict[str, str] = {}
        self._loaded: set[str] = set()
        self._distrusted: list[Template] = []  # not closed yet, as another thread may be using one at this moment
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def get(self, order: Order, *, even_if_quick: bool) -> Template:
        """The template of a machine that is ready, and has its layers.

        :param even_if_quick: whether to freeze a guest that boots faster than a clone would be worth.
        :raises Refused: a machine was booted that cannot be frozen.
        :raises Unfrozen: such a machine cannot be frozen, as is known already.
        """
        if reason := what_no_copy_has(order.config.qemu_args):
            raise Unfrozen(reason)
        return self._get(order, keys_of(order), even_if_quick)

    def _get(self, order: Order, keys: list[str], even_if_quick: bool) -> Template:
        *below, key = keys
        with self._locks[key], self._archived(order, key, steps=len(keys)) as archive:
            if reason := self._refused.get(key):
                raise Unfrozen(reason)
            if key not in self._made and archive is not None and (found := archive.load(key, order, self._are_current)):
                self._made[key] = found
                self._loaded.add(key)
            if key not in self._made:
                if below:
                    made = self._layered(order, key, self._get(order, below, even_if_quick=True), len(below) - 1)
                else:
                    made = self._booted(order, key, even_if_quick)
                self._made[key] = made
                if archive is not None:
                    archive.save(key, made, order, layers=len(below))
            return self._made[key]

    @contextmanager
    def _archived(self, order: Order, key: str, *, steps: int) -> Iterator[Archive | None]:
        """The archive, if there is one, with nobody else at work on this key, when there is something to be made.

        Another process is given the time of a boot for each of the steps; who then does not have it makes its own.
        """
        if key in self._made and not self._are_current(self._made[key].reads):
            self._distrusted.append(self._made.pop(key))
        archive = self._archive(order.config) if key not in self._made and key not in self._refused else None
        if archive is None:
            yield None
        else:
            patience = order.config.boot_timeout * order.hypervisor.slowness(order.config) * steps
            with archive.lock(key, patience=patience) as is_ours:
                yield archive if is_ours else None

    def _booted(self, order: Order, key: str, even_if_quick: bool) -> Template:
        with _memory(new_ram(order.config.memory) if has_one_ram(order.config) else None) as ram:
            wire = RamWire(ram, writable=True) if ram is not None else None
            instance = booted(order, InitialState(named_overlay=True, ram=wire))
            if not even_if_quick and instance.ready_after < _QUICK:
                self._refused[key] = f"it boots in less than {_QUICK:g} s, which a copy would not better"
                raise Refused(self._refused[key], instance)
            try:
                template = _frozen(order, instance, ram)
                self._on_boot(order, instance)
                return template
            except Unfrozen as unfrozen:
                self._refused[key] = str(unfrozen)
                raise Refused(str(unfrozen), instance) from None
            except BaseException as error:
                give_up(order, instance, error)
                raise

    def _are_current(self, reads: Reads) -> bool:
        return are_current(reads, self._contents)

    def _layered(self, order: Order, key: str, below: Template, number: int) -> Template:
        """Run the function of a layer in a machine that goes on from the template below, and freeze that."""
        with _memory(_copied(below.ram, order.config.memory) if below.ram is not None else None) as ram:
            instance = clone(order, below, ram=ram, freezable=True)
            try:
                reads = {**below.reads, **make_layer(order, instance, number, self._contents)}
                return replace(_frozen(order, instance, ram), reads=reads)
            except Unfrozen as unfrozen:
                self._refused[key] = str(unfrozen)
                raise Refused(str(unfrozen), instance, layers=number + 1) from None
            except BaseException as error:
                tell_unmade(order, number, error)
                give_up(order, instance, error)
                raise

    def take_changed(self) -> list[str]:
        """What happened to templates' files since they were frozen. Such a template is not used any more."""
        changed = {key: found for key, template in list(self._made.items()) if (found := template.difference())}
        for key in changed:
            self._distrusted.append(self._made.pop(key))
        return list(changed.values())

    def has(self, order: Order) -> bool:
        """Whether the template of such a machine is there by now, and is what would be made now."""
        key = keys_of(order)[-1]
        made = self._made.get(key)
        return made is not None and key not in self._refused and self._are_current(made.reads)

    def refuse(self, order: Order, reason: str) -> None:
        """Do without the template of such a machine from now on, for a reason that turned up when it was used."""
        self._refused[keys_of(order)[-1]] = reason

    def distrust(self, order: Order) -> bool:
        """Forget what of such a machine is from an earlier run, here and there, and say whether there was something."""
        archive = self._archive(order.config)
        found = [key for key in keys_of(order) if key in self._loaded]
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


@host_errors("the guest cannot be frozen")
def _frozen(order: Order, instance: Instance, ram: int | None) -> Template:
    return order.loop.run(freeze(instance, ram=ram))


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
