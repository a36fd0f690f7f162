"""``readonly-vm image``: the list of images vm-images.toml, and the store of those that were brought here."""

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_readonly_vm.cli.image_entry import chosen, image_of, open_editor, say, shown
from pytest_readonly_vm.cli.image_store import clear_store, list_store
from pytest_readonly_vm.cli.image_update import update_list
from pytest_readonly_vm.cli.settings import declare_settings, given_settings
from pytest_readonly_vm.cli.warned import warnings_said
from pytest_readonly_vm.config import image_reference
from pytest_readonly_vm.config.image_reference import ImageReference
from pytest_readonly_vm.config.image_url import ImageUrl
from pytest_readonly_vm.config.setting import Given
from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.config.values import path
from pytest_readonly_vm.errors import ConfigurationError, VmError
from pytest_readonly_vm.host.qemu_binary import find_qemu_img
from pytest_readonly_vm.host.watch import Show
from pytest_readonly_vm.printable import line
from pytest_readonly_vm.sources.image_list import FILE_NAME, ImageList, ListedImage, find_list
from pytest_readonly_vm.sources.image_sources import ImageSources, arch_of, look

if TYPE_CHECKING:
    from pytest_readonly_vm.sources.list_editor import ListEditor

HELP = "name images in vm-images.toml, and bring them here"

_STORE = ("image_store", "image_store_size")
_ENVIRONMENT = ("arch", "qemu")
"""What else decides, in a run of pytest as well, which of several images of one name is meant."""
_OF_THE_ENTRY = ("url", "digest", "size", "image")
"""What ``--set`` does not set: the command itself does, or nobody may."""


def declare(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--list", type=path, metavar="FILE", help=f"the list (default: {FILE_NAME} in this folder or the nearest above)"
    )
    store = argparse.ArgumentParser(add_help=False)
    declare_settings(store.add_argument, _STORE)
    add = actions.add_parser("add", parents=[common], help="give a URL a name, with the digest that it has now")
    add.add_argument("name", metavar="NAME")
    add.add_argument("url", metavar="URL", help="https:// or oci://, or a path from the list's folder")
    add.add_argument(
        "--set", action="append", default=[], metavar="SETTING=VALUE", help="a setting that goes with it; repeatable"
    )
    pull = actions.add_parser(
        "pull", parents=[common, store], help="bring images into the store, as before tests of CI"
    )
    pull.add_argument("names", nargs="*", metavar="NAME", help="which (default: all)")
    lists = actions.add_parser("list", parents=[common, store], help="show the names, and what is known of each")
    lists.add_argument("--store", action="store_true", help="show what the store has instead, the last used first")
    clear = actions.add_parser("clear", parents=[store], help="remove all images of the store, or those that are named")
    clear.add_argument("digests", nargs="*", metavar="DIGEST", help="as list --store shows it, or its beginning")
    update = actions.add_parser("update", parents=[common], help="look whether a URL has another image by now")
    update.add_argument("names", nargs="*", metavar="NAME", help="which (default: all)")
    update.add_argument("--yes", action="store_true", help="write what moved into the list without asking")
    remove = actions.add_parser("remove", parents=[common], help="take a name out of the list")
    remove.add_argument("name", metavar="NAME")


def run(arguments: argparse.Namespace) -> int:
    with warnings_said(say):
        return _run(arguments)


def _run(arguments: argparse.Namespace) -> int:
    config = VmConfig().with_settings(given_settings(arguments, (*_STORE, *_ENVIRONMENT)))
    if arguments.action == "clear":
        return clear_store(config, arguments.digests)
    if arguments.action == "list" and arguments.store:
        return list_store(config)
    given: Path | None = arguments.list
    where = given.absolute() if given else find_list(Path.cwd()) or Path.cwd() / FILE_NAME
    match arguments.action:
        case "add":
            return _add(open_editor(where), where, arguments, config)
        case "pull":
            return _pull(ImageList.read(where), arguments.names, config)
        case "list":
            return _list(ImageList.read(where), config)
        case "update":
            return update_list(ImageList.read(where), arguments.names, config, is_agreed=arguments.yes)
        case _:
            return _remove(open_editor(where), where, arguments.name)


def _add(editor: "ListEditor", where: Path, arguments: argparse.Namespace, config: VmConfig) -> int:
    name, url = arguments.name, arguments.url
    if name in editor.images:
        raise ConfigurationError(f"{where} has {name} already; update it, or remove it first")
    if not image_reference.is_name(name):
        raise ConfigurationError(f"{name!r} is no name of an image: letters, digits and ._+- as of a file")
    settings = _settings(arguments.set)
    config = config.with_settings({key: Given(value, "--set", where.parent) for key, value in settings.items()})
    image = image_of(url, where)
    values = {"url": url, **_looked_up(image, config), **settings}
    editor.set(name, values)
    editor.save()
    print(f"{where}: {name} is {shown(values)}")
    if isinstance(image, ImageReference) and isinstance(image.place, ImageUrl) and image.place.secret:
        say(
            f"the URL's {image.place.secret} is in {where} now, which is there to be committed; user and password are "
            "found in ~/.netrc as well, where nobody else reads them"
        )
    return 0


def _settings(given: Sequence[str]) -> dict[str, str]:
    """What ``--set`` says.

    :raises ConfigurationError: one is not of that form, or is not set in this way.
    """
    found = {}
    for one in given:
        name, sign, value = one.partition("=")
        if not sign:
            raise ConfigurationError(f"--set: {one!r} is not of the form SETTING=VALUE")
        if name in _OF_THE_ENTRY:
            raise ConfigurationError(
                f"--set: {name} is no setting that goes with an image; NAME and URL say which it is"
            )
        found[name] = value
    return found


def _looked_up(image: Path | ImageReference, config: VmConfig) -> dict[str, object]:
    """The digest and the size of what is behind a URL now; nothing for a path."""
    if isinstance(image, Path):
        return {}
    found = look(image, arch=arch_of(image, config))
    return {"digest": str(found.digest) if found.digest else None, "size": found.size}


def _pull(images: ImageList, names: Sequence[str], config: VmConfig) -> int:
    qemu_img = find_qemu_img(config.qemu)
    failed = False
    with _sources() as sources:
        for entry in chosen(images, names):
            try:
                wanted = images.applied(config, entry.name)
                assert wanted.image is not None
                found = sources.locate(wanted.image, wanted, origin=str(images.path), qemu_img=qemu_img)
                print(f"{entry.name}: {found}", flush=True)
            except VmError as error:  # the others come all the same
                failed = True
                say(f"{entry.name}: {error}")
    return 1 if failed else 0


def _list(images: ImageList, config: VmConfig) -> int:
    with _sources() as sources:
        for entry in images.images.values():
            values = {"url": entry.url, "digest": entry.digest, "size": entry.size, **entry.settings}
            print(f"{entry.name}: {shown(values)}, {_state(sources, images, entry, config)}")
    number = len(images.images)
    print(f"{number or 'no'} image{'s' * (number != 1)} in {images.path}")
    return 0


def _state(sources: ImageSources, images: ImageList, entry: ListedImage, config: VmConfig) -> str:
    """Whether an image has to be brought here."""
    try:
        wanted = images.applied(config, entry.name)
    except ConfigurationError as error:
        return f"but {error}"
    assert wanted.image is not None
    if isinstance(wanted.image, Path) and not wanted.image.exists():
        return "not there"
    is_kept = sources.is_kept(wanted.image, wanted)
    if is_kept is None:
        return "used where it is" if isinstance(wanted.image, Path) else "asked for in each run"
    return "in the store" if is_kept else "not in the store"


def _remove(editor: "ListEditor", where: Path, name: str) -> int:
    try:
        editor.remove(name)
    except KeyError:
        raise ConfigurationError(f"{where} lists no {name!r}; {ImageList(where, editor.images).known(name)}") from None
    editor.save()
    print(f"{where} lists {name} no more; what the store has of it goes when the room is needed")
    return 0


@contextlib.contextmanager
def _sources() -> Iterator[ImageSources]:
    sources = ImageSources(say, _watch)
    try:
        yield sources
    finally:
        sources.close()


@contextlib.contextmanager
def _watch(users_code: bool) -> Iterator[Show | None]:
    """How far a transfer is, on a line of the terminal that goes with its end; nothing where there is none."""
    if not sys.stderr.isatty():
        yield None
        return
    try:
        yield lambda text: print(f"\r\x1b[K{line(text, 79)}", end="", file=sys.stderr, flush=True)
    finally:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
