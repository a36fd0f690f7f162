"""Owns which kind of place a target is, by how it is written."""

import functools
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pytest_readonly_vm.config.image_url import shown_url
from pytest_readonly_vm.errors import ConfigurationError
from pytest_readonly_vm.remote.folder_files import FolderFiles
from pytest_readonly_vm.remote.layout import LayoutStore
from pytest_readonly_vm.remote.remote_cache import RemoteCache
from pytest_readonly_vm.remote.store import Store

_READABLE = "may be asked by http: whoever is on the way can read the memory of the guests that come from there"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def open_remote(
    target: str | Path,
    *,
    signers: Path | None = None,
    unsigned: bool = False,
    tell: Callable[[str], object] = lambda sentence: None,
) -> RemoteCache:
    """A place for frozen guests: a folder, ``oci://REGISTRY/NAME``, ``https://…``, or a URL of what fsspec knows.

    :param signers: a file of allowed signers, as of ssh-keygen(1).
    :param unsigned: whether what nobody has signed is used from wherever it comes. A frozen guest is data and code of
        whoever has made it.
    :param tell: given sentences for people.
    :raises ConfigurationError: it is no place.
    :raises HostError: a package is not installed that it takes.
    :raises RemoteError: it cannot be reached.
    """
    return RemoteCache(_opener(target, tell), signers=signers, unsigned=unsigned)


def _opener(target: str | Path, tell: Callable[[str], object]) -> Callable[[], Store]:
    found = _SCHEME.match(target) if isinstance(target, str) else None
    scheme = found[1].lower() if found else "file"
    if not found:
        return functools.partial(_folder, Path(target).expanduser())
    if scheme == "file":
        parts = urlsplit(str(target))
        if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            raise ConfigurationError(f"{target} is no folder of this computer; write file:///path, or the path alone")
        return functools.partial(_folder, Path(unquote(parts.path)))
    written = str(target)
    if scheme == "oci":  # each of these takes a while to load
        from pytest_readonly_vm.config.oci_reference import OciReference
        from pytest_readonly_vm.remote.registry_store import RegistryStore

        try:
            reference = OciReference.parse(written)
        except ValueError as error:
            raise ConfigurationError(str(error)) from None
        if reference.digest is not None or reference.tag not in (None, "latest"):
            raise ConfigurationError(f"{written}: frozen guests take a repository, oci://registry.example.org/name")
        if reference.insecure and not reference.is_of_loopback:
            tell(f"{reference.name} {_READABLE}")
        return lambda: RegistryStore(reference)
    if scheme in ("http", "https"):
        from pytest_readonly_vm.remote.web_files import WebFiles

        if scheme == "http":
            tell(f"{shown_url(written)} {_READABLE}")
        return lambda: LayoutStore(WebFiles(written))
    from pytest_readonly_vm.remote.url_files import UrlFiles

    files = UrlFiles(written)
    return lambda: LayoutStore(files.for_another_thread())


def _folder(path: Path) -> Store:
    return LayoutStore(FolderFiles(path))
