"""``readonly-vm cache push``, ``pull`` and ``prune``: templates on their way to other computers and from them."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pytest_readonly_vm.cli.kept import NAME_SHOWN, ago, counted, named, without_controls
from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.config.values import folder_or_url, path
from pytest_readonly_vm.errors import VmError
from pytest_readonly_vm.host.entries import portable
from pytest_readonly_vm.host.hypervisor import find_hypervisor
from pytest_readonly_vm.host.os_errors import explain
from pytest_readonly_vm.host.qemu_binary import find_qemu_img
from pytest_readonly_vm.printable import line
from pytest_readonly_vm.start.cache import Damaged, Entry, TemplateCache
from pytest_readonly_vm.start.recipe import Recipe, Untravelled
from pytest_readonly_vm.start.travel import RECIPE, fetch, height, packed

_DAY = 24 * 3600


def declare(actions: "argparse._SubParsersAction[argparse.ArgumentParser]", folder: argparse.ArgumentParser) -> None:
    push = actions.add_parser("push", parents=[folder], help="put them where other computers find them")
    pull = actions.add_parser("pull", parents=[folder], help="take those of other computers that fit this one")
    prune = actions.add_parser("prune", help="remove those from such a place that nobody has pushed for long")
    for parser in (push, pull, prune):
        parser.add_argument(
            "target",
            type=folder_or_url,
            metavar="TARGET",
            help="a folder, oci://REGISTRY/NAME, s3://…, gs://…, ssh://…",
        )
    prune.add_argument(
        "--days", type=_days, default=30, metavar="N", help="for how long, at least (default: 30); pushed anew counts"
    )
    for parser in (push, pull):
        parser.add_argument("keys", nargs="*", metavar="KEY", help="a key, or the beginning of one (default: all)")
    push.add_argument(
        "--sign-with",
        type=path,
        metavar="FILE",
        help="sign them with this key of OpenSSH's, or by the agent if it is a public one",
    )
    pull.add_argument(
        "--signers", type=path, metavar="FILE", help="who may have signed them (default: $PYTEST_VM_CACHE_SIGNERS)"
    )
    pull.add_argument("--unsigned", action="store_true", help="take what nobody has signed; it runs, and is believed")


def push(arguments: argparse.Namespace, entries: Sequence[Entry]) -> int:
    chosen = named(arguments.keys, entries, lambda entry: entry.key, what="template key") if arguments.keys else entries
    from pytest_readonly_vm.remote.targets import open_remote

    remote = open_remote(arguments.target, signers=None, unsigned=True)
    failed = False
    for entry in sorted(chosen, key=height):
        what = f"{entry.key[:NAME_SHOWN]} ({without_controls(entry.description.get('image', ''))})"
        try:
            with packed(entry) as parcel:
                sent = remote.push(parcel, sign_with=arguments.sign_with)
        except Untravelled as bound:
            print(f"{what} stays here: {line(str(bound))}")
        except Damaged as damaged:
            failed = True
            print(f"readonly-vm: {what} is not pushed: {line(str(damaged))}", file=sys.stderr)
        else:
            print(
                f"{what} pushed as {parcel.key[:NAME_SHOWN]}: sent {sent.sent / (1 << 20):.1f} MiB, "
                f"{sent.there / (1 << 20):.1f} MiB were there"
            )
    print(f"looked at {counted(chosen, 'template')}")
    return 1 if failed else 0


def pull(arguments: argparse.Namespace, cache: TemplateCache, config: VmConfig) -> int:
    from pytest_readonly_vm.remote.targets import open_remote

    remote = open_remote(
        arguments.target,
        signers=arguments.signers or config.cache_signers,
        unsigned=arguments.unsigned or config.cache_unsigned,
    )
    keys = remote.keys()
    chosen = named(arguments.keys, keys, str, what="template key") if arguments.keys else keys
    wanted = []
    for key in chosen:
        if cache.find(portable(key)):
            print(f"{key[:NAME_SHOWN]} is here")
        elif manifest := remote.find(key):  # else it has gone meanwhile
            with _understood(key):
                wanted.append((Recipe.read(manifest.facts[RECIPE]), manifest))
    pulled = 0
    # What is below others first, as these have most in common with it.
    for recipe, manifest in sorted(wanted, key=lambda one: len(one[0].below())):
        what = f"{manifest.key[:NAME_SHOWN]} ({without_controls(manifest.description.get('image', ''))})"
        if reason := _unfit(recipe, config):
            print(f"{what} is not taken: {line(reason)}")
            continue
        try:
            fetch(remote, manifest, recipe, cache)
        except OSError as error:
            raise VmError(f"{what} is not pulled: {explain(error) or error.strerror or error}") from None
        pulled += 1
        print(f"{what} pulled, {manifest.data / (1 << 20):.1f} MiB")
    print(f"pulled {pulled} of {counted(chosen, 'template')}")
    return 0


def prune(arguments: argparse.Namespace) -> int:
    from pytest_readonly_vm.remote.targets import open_remote

    with open_remote(arguments.target, unsigned=True) as remote:
        pruned = remote.prune(arguments.days * _DAY)
        for key, unused in sorted(pruned.keys.items()):
            print(f"{key[:NAME_SHOWN]} removed, last pushed {ago(unused)}")
        freed, later = pruned.freed / (1 << 20), pruned.later / (1 << 20)
        print(
            f"removed {counted(list(pruned.keys), 'template')} from {remote.name}, freed {freed:.1f} MiB; "
            f"{counted(range(pruned.kept), 'template')} left"
        )
    if pruned.later:
        print(f"{later:.1f} MiB more are freed by a prune in a day, as somebody may be pushing or pulling them")
    return 0


def _days(text: str) -> int:
    if not text.isdecimal() or len(text) > 6:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of days")
    return int(text)


def _unfit(recipe: Recipe, config: VmConfig) -> str | None:
    try:
        return recipe.unfit(find_hypervisor(config, arch=recipe.arch, qemu_img=find_qemu_img(config.qemu)))
    except VmError as error:
        return str(error)


@contextmanager
def _understood(name: str) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError):
        raise VmError(f"{name[:NAME_SHOWN]} does not say what it is made of") from None
