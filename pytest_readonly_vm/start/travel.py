"""Owns what of an entry of the cache is another on another computer, and its passage from here to there and back."""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_readonly_vm.config.prepared import Prepared, project_of
from pytest_readonly_vm.config.settings import FILES
from pytest_readonly_vm.host.entries import portable
from pytest_readonly_vm.image.contents import ContentDigests
from pytest_readonly_vm.qemu.spec import MachineSpec
from pytest_readonly_vm.remote.parcel import Parcel
from pytest_readonly_vm.start.cache import Damaged, Entry, TemplateCache
from pytest_readonly_vm.start.cluster_state import MachineState
from pytest_readonly_vm.start.key import key_of
from pytest_readonly_vm.start.recipe import Recipe, Untravelled

if TYPE_CHECKING:
    from pytest_readonly_vm.remote.parcel import Manifest
    from pytest_readonly_vm.remote.remote_cache import RemoteCache

RECIPE, READS = "recipe", "reads"
"""Facts of an entry: what it is made of, and which files of the host are in it."""
_MEMBERS, _PROJECTS = "members", "projects"
"""What the machines of a cluster are made of, and the folders of the projects whose functions had a part in it."""
_BOUND = "bound"
"""In the place of what it is made of, why that is of no use elsewhere."""


@dataclass(frozen=True, slots=True)
class Origin:
    """By what a template or a cluster comes to be."""

    recipe: Callable[[], Recipe]
    """Raises `Untravelled` for one that is bound to this computer."""
    prepared: Sequence[Prepared]
    """The functions of the user's that have a part in it."""


def facts_of(
    origin: Origin, machines: Sequence[MachineState] = (), specs: Sequence[MachineSpec] = ()
) -> dict[str, Any]:
    """What an entry is to know for the day on which it may travel.

    :param machines: those of a cluster, and `specs` what they take.
    """
    try:
        told = origin.recipe().told()
        members = [_member(*one).told() for one in zip(machines, specs, strict=True)]
    except Untravelled as bound:
        told, members = {_BOUND: str(bound)}, []
    return {RECIPE: told, _MEMBERS: members, _PROJECTS: _projects(origin.prepared)}


def _member(machine: MachineState, spec: MachineSpec) -> Recipe:
    if own := [name for name in machine.settings if name in (*FILES, "disks")]:
        raise Untravelled(f"its machine {machine.name} has its own {own[0]}, which may be anywhere on another computer")
    return Recipe.of(spec, layers=len(spec.config.layers))


def fetch(remote: "RemoteCache", manifest: "Manifest", recipe: Recipe, cache: TemplateCache) -> None:
    """Put what lies there into the cache. What it has in common with others that are here is copied.

    :raises RemoteError: it does not come.
    :raises OSError: there is no room for it.
    """
    near = _nearest(recipe, cache)
    cache.fetch(
        portable(manifest.key),
        lambda folder: remote.fetch(manifest, folder, near=near),
        content=manifest.digest.rpartition(":")[2][:16],
        size=manifest.data,
        description=dict(manifest.description),
        facts=manifest.facts,
    )


def _nearest(recipe: Recipe, cache: TemplateCache) -> list[Path]:
    """The entry that may have most blocks in common with it, if there is one of the same guest.

    Where none came from elsewhere, it is one that this computer has made: boots of the same have some in common.
    A second one would cost half a second, and add next to nothing.
    """
    ranked = []
    for entry in cache.entries():
        with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError):
            other = Recipe.read(entry.facts[RECIPE])
            if (likeness := recipe.likeness(other)) is not None:
                ranked.append((likeness, entry.folder))
    return [max(ranked, key=lambda one: one[0])[1]] if ranked else []


def members_here(
    machines: Sequence[MachineState], facts: Mapping[str, Any], specs: Sequence[MachineSpec]
) -> tuple[MachineState, ...]:
    """The machines of a cluster from elsewhere, by the keys that they have here.

    :param specs: what they take here.
    :raises Damaged: one would be another here.
    """
    found = []
    for machine, spec, told in zip(machines, specs, facts[_MEMBERS], strict=True):
        if Recipe.read(told).told() != _member(machine, spec).resolved().told():
            raise Damaged(f"its machine {machine.name} would be another here")
        found.append(replace(machine, key=key_of(spec)))
    return tuple(found)


def height(entry: Entry) -> int:
    """How many others it stands upon, as far as it says: those are to go before it."""
    try:
        return len(Recipe.read(entry.facts[RECIPE]).below())
    except (KeyError, TypeError, ValueError, AttributeError):
        return 0


@contextmanager
def packed(entry: Entry) -> Iterator[Parcel]:
    """An entry as it travels; its files are open meanwhile.

    :raises Untravelled: it is of use on this computer only.
    :raises Damaged: it is not what was put there.
    :raises OSError: this process or computer has no more of what it takes to find out.
    """
    told = entry.facts.get(RECIPE)
    if not isinstance(told, dict):
        raise Untravelled("it was made by an earlier version, before frozen guests could travel")
    if reason := told.get(_BOUND):
        raise Untravelled(str(reason))
    try:
        recipe = Recipe.read(told).resolved()
        members = [Recipe.read(one).resolved().told() for one in entry.facts[_MEMBERS]]
        facts = {**entry.facts, RECIPE: recipe.told(), READS: _anywhere(entry.facts), _MEMBERS: members, _PROJECTS: []}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise Damaged(f"{entry.folder} does not say what it is made of") from None
    with ExitStack() as opened:
        files = {}
        for name in entry.digests:
            files[name] = entry.open_verified(name)
            opened.callback(os.close, files[name])
        below = tuple(one.name for one in recipe.below())
        yield Parcel(recipe.name, dict(entry.description), facts, files, below)


def reads_here(facts: Mapping[str, Any], prepared: Sequence[Prepared], digests: ContentDigests) -> dict[str, str]:
    """What the layers of an entry from elsewhere have read, by the paths that this has here.

    :raises Damaged: a file has something else in it here.
    """
    projects = _projects(prepared)
    here = {}
    for place, path, digest in facts[READS]:
        found = path if place is None else os.path.normpath(f"{projects[place[0]]}/{place[1]}")
        # Where a layer names a file by a path that both computers have, that one counts as well.
        for one in {found, path} if os.path.lexists(path) else {found}:
            if digests.digest_or_reason(one) != digest:
                raise Damaged(f"{one} has something else in it than where the guest was frozen")
        here[found] = digest
    return here


def _projects(prepared: Sequence[Prepared]) -> list[str]:
    return [str(project_of(one.function)) for one in prepared]


def _anywhere(facts: Mapping[str, Any]) -> list[Any]:
    """What was read, each by its place in the project of a function, if it is in one; its path here; and its digest."""
    if isinstance(facts[READS], list):  # it has travelled before
        return list(facts[READS])
    return [[_place(path, facts[_PROJECTS]), path, digest] for path, digest in facts[READS].items()]


def _place(path: str, projects: Sequence[str]) -> tuple[int, str] | None:
    whole = os.path.normpath(path)
    for number, project in enumerate(projects):
        if Path(whole).is_relative_to(project):
            return number, os.path.relpath(whole, project)
    return None
