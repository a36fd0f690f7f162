"""Owns the freezing of guests at one moment: of one, or of several with what is on its way between them.

All stand still before of any of them a state is saved. A network between them holds what comes from then on, so that
it is neither lost nor seen by one of them and not by another.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from pytest_readonly_vm.errors import StartFailed
from pytest_readonly_vm.host.os_errors import explain
from pytest_readonly_vm.qemu.attached_disk import AttachedDisk
from pytest_readonly_vm.qemu.disk import create_overlay
from pytest_readonly_vm.qemu.disk_spec import Overlays, close_all, copies
from pytest_readonly_vm.qemu.instance import Instance
from pytest_readonly_vm.start.migration import InterruptPending, Unfrozen, go_on, save_state
from pytest_readonly_vm.start.repair import prepare
from pytest_readonly_vm.start.template import Template, frozen_overlay, seal, written_file

T = TypeVar("T")

Conversation = tuple[str, Mapping[str, Any]] | None
"""The channel that was in use and where it stood."""

_REST, _REST_PATIENCE = 0.05, 0.2
"""Of the time in which a guest has become ready: for how long it is to rest, and how long that is waited for."""
_LONGEST_REST, _SHORTEST_REST = 1.0, 0.1
_PAUSES = tuple(0.001 * 2**n for n in range(10))
"""Seconds for which guests run on that cannot be frozen at a moment, one after another."""
_IDLE = 0.1
"""Of one processor, the part that a guest uses that only keeps its time."""


class Wire(Protocol):
    """A network between machines that are frozen together."""

    async def hold(self) -> None:
        """Keep what comes from now on, once all that was passed on has been taken."""

    async def under_way(self) -> int:
        """What is kept, once the machines stand still, as a descriptor of sealed memory for whoever asks to close."""

    async def go_on(self, under_way: int | None = None) -> None:
        """Pass on what was kept, or what was under way when others were frozen."""


@dataclass(frozen=True, slots=True, eq=False)
class Moment:
    """Guests that were frozen together."""

    templates: tuple[Template, ...]
    under_way: tuple[int, ...]
    """What was on its way on each network, as descriptors."""

    def difference(self) -> str | None:
        """What happened to the files of their disks since, or None."""
        return next(filter(None, (template.difference() for template in self.templates)), None)

    def close(self) -> None:
        for template in self.templates:
            template.close()
        for descriptor in self.under_way:
            os.close(descriptor)


async def freeze(instances: Sequence[Instance], rams: Sequence[int | None], wires: Sequence[Wire] = ()) -> Moment:
    """Make templates of machines that write to named overlays, and end them. On the loop.

    :param rams: of each the memory that QEMU shares as its RAM; None if it has its own.
    :raises Unfrozen: one cannot be frozen. All run on, but for their channels, which may have to be opened anew.
    :raises StartFailed: it could not be made sure that nobody changes what was frozen. All have ended.
    """
    conversations = await _all(map(_parted, instances))
    await _all(map(_rested, instances))
    with ExitStack() as kept:
        states, under_way = await _saved(instances, rams, wires, kept, go_on_after=False)
        memories = zip(states, rams, strict=True)
        disks = await _all(_ended(one, its, kept) for one, its in zip(instances, memories, strict=True))
        templates = list(map(_template, instances, conversations, rams, states, disks))
        kept.pop_all()
    for instance in instances:
        instance.remove_folder()
    return Moment(tuple(templates), under_way)


async def freeze_running(instances: Sequence[Instance], wires: Sequence[Wire] = ()) -> Moment:
    """Make templates of machines that run on afterwards, each with a further overlay above its disk. On the loop.

    :raises Unfrozen: one cannot be frozen. All run on.
    """
    conversations = await _all(map(_parted, instances))
    with ExitStack() as kept:
        states, under_way = await _saved(instances, [None] * len(instances), wires, kept, go_on_after=True)
        for state in states:
            seal(state)
        templates = []
        for instance, conversation, state in zip(instances, conversations, states, strict=True):
            templates.append(_template(instance, conversation, None, state, copies(instance.frozen_overlays)))
        kept.pop_all()
    return Moment(tuple(templates), under_way)


async def _saved(
    instances: Sequence[Instance],
    rams: Sequence[int | None],
    wires: Sequence[Wire],
    kept: ExitStack,
    *,
    go_on_after: bool,
) -> tuple[list[int], tuple[int, ...]]:
    """The states of all at one moment, and what was under way; at a later one if one of them cannot be saved at it."""
    for pause in (*_PAUSES, None):
        with ExitStack() as attempt:
            try:
                async with _standing_still(instances, wires, attempt, go_on_after=go_on_after) as under_way:
                    if go_on_after:
                        disks = [(instance, disk) for instance in instances for disk in instance.disks]
                        await _all(put_overlay_on_top(*one) for one in disks)
                    saves = [
                        save_state(instance, without_shared_ram=ram is not None)
                        for instance, ram in zip(instances, rams, strict=True)
                    ]
                    states = await _all_kept(saves, attempt)
                kept.enter_context(attempt.pop_all())
                return states, under_way
            except InterruptPending:
                if pause is None or not any([await _is_running(instance) for instance in instances]):
                    raise
        await asyncio.sleep(pause)  # the guest takes it in this time, of which nothing tells
    raise AssertionError("unreachable")


@contextlib.asynccontextmanager
async def _standing_still(
    instances: Sequence[Instance], wires: Sequence[Wire], kept: ExitStack, *, go_on_after: bool
) -> AsyncIterator[tuple[int, ...]]:
    """All stand still meanwhile, at one moment; what is under way on the networks.

    :param go_on_after: whether they run again afterwards; they do in any case if something fails.
    """
    running = [instance for instance in instances if await _is_running(instance)]
    async with AsyncExitStack() as expecting, AsyncExitStack() as going_on:
        for instance in instances:
            expecting.enter_context(instance.qmp.liveness.expecting_stop())
        for wire in wires:
            going_on.push_async_callback(wire.go_on)
        await _all(wire.hold() for wire in wires)
        for instance in running:
            going_on.push_async_callback(go_on, instance.qmp)
        await _all(instance.qmp.command("stop") for instance in instances)
        under_way = tuple(await _all_kept([wire.under_way() for wire in wires], kept))
        yield under_way
        if not go_on_after:
            going_on.pop_all()


async def _all(work: Iterable[Awaitable[T]]) -> list[T]:
    """The results of all of them, once all are done; if some fail, the first error."""
    done = await asyncio.gather(*work, return_exceptions=True)
    for result in done:
        if isinstance(result, BaseException):
            raise result
    return [result for result in done if not isinstance(result, BaseException)]


async def _all_kept(work: Sequence[Awaitable[int]], kept: ExitStack) -> list[int]:
    """The same for descriptors, of which none is lost if some fail, or if nobody waits for all any more."""

    async def keep(one: Awaitable[int]) -> int:
        kept.callback(os.close, found := await one)
        return found

    return await _all(map(keep, work))


async def _parted(instance: Instance) -> Conversation:
    """Leave the channel as a copy of the guest can find it, and know where the cards are."""
    if out := [disk.name for disk in instance.disks if disk.is_out]:
        raise Unfrozen(f"the disk {out[0]} is taken out; plug it in first")
    await instance.place_cards()
    if await _is_running(instance):
        await prepare(instance)
    if instance.ssh is not None:
        await instance.ssh.part()
        instance.ssh = None
    return await instance.channels.part()


async def _is_running(instance: Instance) -> bool:
    return bool((await instance.qmp.command("query-status"))["running"])


async def _rested(instance: Instance) -> None:
    """Wait until the guest has come to rest, but not for long: what it is in the middle of would go on in each copy.

    Nothing tells that. It shows in how much its QEMU computes, or waits for a processor of the host's.
    """
    rest = max(_SHORTEST_REST, min(instance.ready_after * _REST, _LONGEST_REST))
    clock = asyncio.get_running_loop().time
    before, deadline = instance.process.busy(), clock() + max(rest, instance.ready_after * _REST_PATIENCE)
    while clock() < deadline:
        await asyncio.sleep(rest)
        now = instance.process.busy()
        if now - before <= rest * _IDLE:
            return
        before = now


async def _ended(instance: Instance, memories: Iterable[int | None], kept: ExitStack) -> Overlays:
    """End a machine that was saved, and have nobody change what it leaves; the files of its disks, closed with `kept`.

    :raises StartFailed: somebody may.
    """
    overlays = dict(copies(instance.frozen_overlays))
    try:
        await instance.end()
        for disk in instance.disks:
            if disk.overlay is not None:
                overlays[disk.name] = (frozen_overlay(disk.overlay), *overlays[disk.name])
        for memory in memories:
            if memory is not None:
                await asyncio.to_thread(seal, memory)
    except BaseException as error:
        close_all(overlays)
        if isinstance(error, OSError):
            why = explain(error) or str(error)
            raise StartFailed(f"{instance.name}: the frozen guest cannot be kept as it is: {why}") from None
        raise
    kept.callback(close_all, overlays)
    return overlays


def _template(
    instance: Instance,
    conversation: Conversation,
    ram: int | None,
    state: int,
    overlays: Overlays,
) -> Template:
    return Template(
        ram=ram,
        state=state,
        overlays=overlays,
        has_named_ram=instance.has_named_ram,
        cards=tuple(instance.cards),
        transcript=instance.console.transcript(),
        conversation=conversation,
        ready_after=instance.ready_after,
        boot_phases=instance.boot_phases,
        ssh_key=instance.ssh_key,
    )


async def put_overlay_on_top(instance: Instance, disk: AttachedDisk) -> None:
    """From now on the guest writes to a new file; what it wrote to so far becomes one of its frozen overlays."""
    qmp = instance.qmp
    below = await disk.node(qmp)
    node = f"{disk.drive}-overlay{len(disk.frozen_overlays) + 1}"
    path = instance.folder / f"{node}.qcow2"
    [size, *_] = await disk.virtual_sizes(qmp)
    qemu_img = instance.spec.hypervisor.qemu_img
    await asyncio.to_thread(create_overlay, path, size, qemu_img=qemu_img, name=instance.name)
    written = await written_file(instance, disk)
    file = {"driver": "file", "filename": str(path), "locking": "off"}
    await qmp.command("blockdev-add", {"driver": "qcow2", "node-name": node, "file": file, "backing": None})
    await qmp.command("blockdev-snapshot", {"node": below, "overlay": node})
    disk.write_to(node, path, frozen=frozen_overlay(written))
