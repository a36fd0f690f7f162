"""``readonly-vm image``: the list of images vm-images.toml, and the store of those that were brought here."""

import argparse
import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_readonly_vm.config import image_reference
from pytest_readonly_vm.config.image_reference import ImageReference
from pytest_readonly_vm.config.setting import Given
from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.config.values import path
from pytest_readonly_vm.errors import ConfigurationError, HostError
from pytest_readonly_vm.host.qemu_binary import find_qemu_img
from pytest_readonly_vm.host.watch import Show
from pytest_readonly_vm.printable import line
from pytest_readonly_vm.sources.image_list import FILE_NAME, ImageList, ListedImage, find_list, listed
from pytest_readonly_vm.sources.image_sources import ImageSources, look

if TYPE_CHECKING:
    from pytest_readonly_vm.sources.list_editor import ListEditor

HELP = "name images in vm-images.toml, and bring them here"

_DIGITS_SHOWN = 12
_MIB = 1 << 20


def declare(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--list", type=path, metavar="FILE", help=f"the list (default: {FILE_NAME} in this folder or the nearest above)"
    )
    add = actions.add_parser("add", parents=[common], help="give a URL a name, with the digest that it has now")
    add.add_argument("name", metavar="NAME")
    add.add_argument("url", metavar="URL", help="https:// or oci://, or a path from the list's folder")
    add.add_argument(
        "--set", action="append", default=[], metavar="SETTING=VALUE", help="a setting that goes with it; repeatable"
    )
    pull = actions.add_parser("pull", parents=[common], help="bring images into the store, as before tests of CI")
    pull.add_argument("names", nargs="*", metavar="NAME", help="which (default: all)")
    actions.add_parser("list", parents=[common], help="show the names, and what is known of each")
    update = actions.add_parser("update", parents=[common], help="look whether a URL has another image by now")
    update.add_argument("names", nargs="*", metavar="NAME", help="which (default: all)")
    update.add_argument("--yes", action="store_true", help="write what moved into the list without asking")
    remove = actions.add_parser("remove", parents=[common], help="take a name out of the list")
    remove.add_argument("name", metavar="NAME")


def run(arguments: argparse.Namespace) -> int:
    given: Path | None = arguments.list
    where = given.absolute() if given else find_list(Path.cwd()) or Path.cwd() / FILE_NAME
    match arguments.action:
        case "add":
            return _add(_editor(where), where, arguments)
        case "pull":
            return _pull(_chosen(where, arguments.names), where)
        case "list":
            return _list(_chosen(where, []), where)
        case "update":
            return _update(_chosen(where, arguments.names), where, is_agreed=arguments.yes)
        case _:
            return _remove(_editor(where), where, arguments.name)


def _chosen(where: Path, names: Sequence[str]) -> list[ListedImage]:
    """The images of a list, or those that are named.

    :raises ConfigurationError: there is no such list, or no such name.
    """
    images = ImageList.read(where)
    return [images.get(name) for name in names] if names else list(images.images.values())


def _editor(where: Path) -> "ListEditor":
    """:raises HostError: what it takes to change a list is not installed."""
    try:
        from pytest_readonly_vm.sources.list_editor import ListEditor
    except ImportError:
        raise HostError("to change a list takes tomlkit: pip install 'pytest-readonly-vm[images]'") from None
    return ListEditor(where)


def _add(editor: "ListEditor", where: Path, arguments: argparse.Namespace) -> int:
    name, url = arguments.name, arguments.url
    if name in editor.images:
        raise ConfigurationError(f"{where} has {name} already; update it, or remove it first")
    if not image_reference.is_name(name):
        raise ConfigurationError(f"{name!r} is no name of an image: letters, digits and ._+- as of a file")
    values = {"url": url, **_looked_up(url, where), **dict(_settings(arguments.set, where))}
    editor.set(name, values)
    editor.save()
    print(f"{where}: {name} is {_shown(values)}")
    return 0


def _settings(given: Sequence[str], where: Path) -> Iterator[tuple[str, object]]:
    """What ``--set`` says.

    :raises ConfigurationError: one is no setting, or has an impossible value.
    """
    for one in given:
        name, sign, value = one.partition("=")
        if not sign:
            raise ConfigurationError(f"--set: {one!r} is not of the form SETTING=VALUE")
        VmConfig().with_settings({name: Given(value, "--set", where.parent)})
        yield name, value


def _looked_up(url: str, where: Path) -> dict[str, object]:
    """The digest and the size of what is behind a URL now; nothing for a path.

    :raises ConfigurationError: it is no URL, or there is no such file.
    """
    try:
        image = image_reference.image(url)
    except ValueError as error:
        raise ConfigurationError(f"URL: {error}") from None
    if isinstance(image, Path):
        if not (where.parent / image).exists():
            raise ConfigurationError(f"URL: {where.parent / image}: No such file or directory")
        return {}
    found = look(image)
    return {"digest": str(found.digest) if found.digest else None, "size": found.size}


def _pull(entries: Sequence[ListedImage], where: Path) -> int:
    qemu_img = find_qemu_img(None)
    with _sources() as sources:
        for entry in entries:
            given = Given(ImageReference(entry.name, where.parent), where.name)
            config = listed(VmConfig().with_settings({"image": given}))
            assert config.image is not None
            print(
                f"{entry.name}: {sources.locate(config.image, config, origin=str(where), qemu_img=qemu_img)}",
                flush=True,
            )
    return 0


def _list(entries: Sequence[ListedImage], where: Path) -> int:
    for entry in entries:
        settings = {key: value for key, value in entry.settings.items() if key != "password"}
        print(f"{entry.name}: {_shown({'url': entry.url, 'digest': entry.digest, 'size': entry.size, **settings})}")
    print(f"{len(entries) or 'no'} image{'s' * (len(entries) != 1)} in {where}")
    return 0


def _update(entries: Sequence[ListedImage], where: Path, *, is_agreed: bool) -> int:
    moved = {}
    for entry in entries:
        found = _looked_up(entry.url, where)
        if found and found["digest"] != entry.digest:
            moved[entry.name] = found
            print(f"{entry.name}: {_shown({'digest': entry.digest, 'size': entry.size})}")
            print(f"{' ' * len(entry.name)}  is now {_shown(found)}")
    if not moved:
        print(f"nothing has moved; {where} stays as it is")
        return 0
    if not (is_agreed or _is_agreed(where)):
        print(f"{where} stays as it is")
        return 1
    editor = _editor(where)
    for name, found in moved.items():
        editor.set(name, found)
    editor.save()
    print(f"{where} is written")
    return 0


def _is_agreed(where: Path) -> bool:
    if not sys.stdin.isatty():
        return False
    print(f"write that into {where}? [y/N] ", end="", flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _remove(editor: "ListEditor", where: Path, name: str) -> int:
    try:
        editor.remove(name)
    except KeyError:
        raise ConfigurationError(f"{where} lists no {name!r}; {ImageList(where, editor.images).known(name)}") from None
    editor.save()
    print(f"{where} lists {name} no more; what the store has of it goes when the room is needed")
    return 0


def _shown(values: Mapping[str, object]) -> str:
    """What a list has of an image, in one line."""
    words = []
    for key, value in values.items():
        if key == "url":
            words.append(_shown_url(str(value)))
        elif key == "digest":
            algorithm, _, digits = str(value or "").partition(":")
            words.append(f"{algorithm}:{digits[:_DIGITS_SHOWN]}…" if value else "no digest")
        elif key == "size":
            words += [f"{value / _MIB:.1f} MiB"] if isinstance(value, int) else []
        else:
            words.append(f"{key} {value}")
    return ", ".join(words)


def _shown_url(written: str) -> str:
    try:
        return str(image_reference.image(written))
    except ValueError as error:
        return str(error)


@contextlib.contextmanager
def _sources() -> Iterator[ImageSources]:
    sources = ImageSources(lambda sentence: print(sentence, file=sys.stderr, flush=True), _watch)
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
