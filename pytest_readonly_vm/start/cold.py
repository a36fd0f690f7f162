"""Owns the cold start: every machine boots by itself."""

from pytest_readonly_vm.guest.boot import boot
from pytest_readonly_vm.host.cleanup import Cleanup
from pytest_readonly_vm.host.loop import LoopThread
from pytest_readonly_vm.image.contents import Contents
from pytest_readonly_vm.qemu.instance import Instance
from pytest_readonly_vm.qemu.launch import InitialState, Order, launch
from pytest_readonly_vm.start.layers import make_layer, tell_unmade


def cold_start(order: Order) -> Instance:
    """Boot, and return when the guest is ready; what was begun is undone when anything fails.

    :raises ConfigurationError: the way of provisioning does not fit the machine.
    :raises StartFailed: QEMU did not come up.
    :raises GuestDied: it ended while the guest was booting.
    :raises BootTimeout: the guest did not become ready within ``config.boot_timeout``.
    """
    return booted(order, InitialState(named_overlay=order.config.snapshot == "overlay"))


def booted(order: Order, initial: InitialState) -> Instance:
    """As `cold_start`, from a certain initial."""
    instance = launch(order, initial)
    try:
        boot(order, instance)
    except BaseException as error:
        give_up(order, instance, error)
        raise
    return instance


def with_layers(order: Order, instance: Instance, *, made: int = 0) -> Instance:
    """A machine that has booted, once its layers have been made in it, but for those that are there already."""
    for number in range(made, len(order.config.layers)):
        try:
            make_layer(order, instance, number, Contents())
        except BaseException as error:
            tell_unmade(order, number, error)
            give_up(order, instance, error)
            raise
    return instance


def give_up(order: Order, instance: Instance, error: BaseException) -> None:
    """End a machine that has not become what was ordered, once who ordered it has seen it."""
    try:
        order.on_failure(instance, error)
    finally:
        discard(order.loop, instance)


def discard(loop: LoopThread, instance: Instance) -> None:
    """End a machine that nobody will use, at once."""
    with Cleanup() as cleanup:
        for step in (instance.process.kill, lambda: loop.run(instance.end()), instance.remove_folder):
            with cleanup.step():
                step()
