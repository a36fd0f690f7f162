"""Owns the making of a layer in a machine: its function is called, and what it reads of the host's files is noted."""

from collections.abc import Mapping
from dataclasses import replace

from pytest_readonly_vm.errors import ConfigurationError
from pytest_readonly_vm.image.contents import Contents
from pytest_readonly_vm.qemu.instance import Instance
from pytest_readonly_vm.qemu.launch import Order

Reads = Mapping[str, str]
"""Files and folders of the host that are in a frozen guest, by their paths as they were given, and digests of them."""


def make_layer(order: Order, instance: Instance, number: int, contents: Contents) -> Reads:
    """Bring a machine into the state of one of its layers.

    :raises ConfigurationError: something is not there that the layer says it depends on.
    """
    layer = order.config.layers[number]
    reads: dict[str, str] = {}
    try:
        for path in layer.files:
            reads[path] = contents.digest(path)
    except OSError as error:
        where = f"{order.config.origin('layers')}: layers: {layer}: files: {error.filename}"
        raise ConfigurationError(f"{where}: {error.strerror}") from None
    vm = order.handle(instance)
    # Before it is read: if it is changed meanwhile, what is kept is of another content than the guest has, or the same.
    vm._on_push = lambda path: reads.setdefault(path, _content(path, contents))
    layer.apply(vm)
    return reads


def tell_unmade(order: Order, number: int, error: BaseException) -> None:
    """Tell who ordered a machine that it is this layer which could not be had."""
    order.on_unmade(replace(order.config, layers=order.config.layers[: number + 1]), error)


def are_current(reads: Reads, contents: Contents) -> bool:
    """Whether the files have in them what they had."""
    return all(_content(path, contents) == known for path, known in reads.items())


def _content(path: str, contents: Contents) -> str:
    """A digest, or why there is none, of which a layer may make something as well."""
    try:
        return contents.digest(path)
    except OSError as error:
        return str(error.strerror)
