"""Owns which user and password somebody has for a registry: what ``docker login`` or ``podman login`` has kept.

The files are those of Docker and of containers-auth.json(5), which name programs that keep passwords elsewhere:
https://github.com/docker/docker-credential-helpers. Nothing that is read here is ever in a message.
"""

import base64
import binascii
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_readonly_vm.errors import ConfigurationError
from pytest_readonly_vm.host.os_errors import explain
from pytest_readonly_vm.host.process import ending
from pytest_readonly_vm.host.tool import run_tool

_HELPER_PATIENCE = 60.0  # some ask the user for the password of a keyring
_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_TOKEN_USER = "<token>"
"""By which user a helper says that its secret is an identity token."""


@dataclass(frozen=True, slots=True)
class Login:
    """By what a registry knows somebody."""

    user: str
    password: str = field(repr=False)
    token: str | None = field(default=None, repr=False)
    """An identity token (OAuth 2's refresh token) in place of both."""


def login_for(registry: str, repository: str) -> Login | None:
    """What the user's files have for a repository, or None.

    :raises ConfigurationError: a file, or a program that it names, cannot be used.
    """
    for path in _files():
        try:
            content = json.loads(path.read_bytes())
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ConfigurationError(
                f"the passwords of registries in {path} cannot be read: {explain(error)}"
            ) from None
        except ValueError:
            raise ConfigurationError(f"the passwords of registries in {path} cannot be read: it is not JSON") from None
        if isinstance(content, dict) and (found := _login_in(content, registry, repository, path)) is not None:
            return found
    return None


def _files() -> Iterator[Path]:
    if (named := os.environ.get("REGISTRY_AUTH_FILE")) is not None:
        yield Path(named)
        return
    if (runtime := os.environ.get("XDG_RUNTIME_DIR")) is not None:
        yield Path(runtime) / "containers" / "auth.json"
    home = os.path.expanduser("~")  # noqa: PTH111 (which leaves it as it is, where there is none)
    yield Path(os.environ.get("XDG_CONFIG_HOME") or f"{home}/.config") / "containers" / "auth.json"
    yield Path(os.environ.get("DOCKER_CONFIG") or f"{home}/.docker") / "config.json"


def _login_in(content: dict[str, Any], registry: str, repository: str, path: Path) -> Login | None:
    helper = _table(content, "credHelpers").get(registry)
    if isinstance(helper, str):
        return _ask(helper, registry, path)
    known = _table(content, "auths")
    by_place = {_place(written): entry for written, entry in known.items() if isinstance(entry, dict)}
    place = f"{registry}/{repository}"
    while True:  # the most exact one counts: registry/name/space, registry/name, registry
        entry = by_place.get(place)
        if entry and (found := _login_of(entry, path)) is not None:
            return found
        if "/" not in place:
            break
        place = place.rpartition("/")[0]
    store = content.get("credsStore")
    return _ask(store, registry, path) if isinstance(store, str) and store else None


def _table(content: dict[str, Any], key: str) -> dict[str, Any]:
    found = content.get(key)
    return found if isinstance(found, dict) else {}


def _place(written: str) -> str:
    """A key of ``auths``, which Docker once wrote as a URL: ``https://registry.example.org/v1/``."""
    without_scheme = re.sub(r"^https?://", "", written)
    return re.sub(r"/v[12]/?$", "", without_scheme).rstrip("/")


def _login_of(entry: dict[str, Any], path: Path) -> Login | None:
    token = entry.get("identitytoken")
    if isinstance(token, str) and token:
        return Login("", "", token)
    if isinstance(entry.get("username"), str) and isinstance(entry.get("password"), str):
        return Login(entry["username"], entry["password"])
    packed = entry.get("auth")
    if not isinstance(packed, str) or not packed:
        return None
    try:
        user, _, password = base64.b64decode(packed, validate=True).decode().rstrip("\0").partition(":")
    except (binascii.Error, ValueError):
        raise ConfigurationError(f"the passwords of registries in {path} cannot be read: one is not base64") from None
    return Login(user, password)


def _ask(helper: str, registry: str, path: Path) -> Login | None:
    """What a program for passwords has; None if it has nothing for this registry."""
    name = f"docker-credential-{helper}"
    where = f"{name}, which {path} names for {registry},"
    if not _HELPER.fullmatch(helper):
        raise ConfigurationError(f"{path} names {helper!r} as a program for passwords, which is none")
    try:
        done = run_tool([name, "get"], timeout=_HELPER_PATIENCE, stdin=registry.encode())
    except OSError as error:
        raise ConfigurationError(f"{where} cannot be started: {explain(error)}") from None
    if done.returncode is None:
        raise ConfigurationError(f"{where} has not answered within {_HELPER_PATIENCE:g} s")
    if done.returncode:
        if "credentials not found" in done.stdout + done.stderr:
            return None
        raise ConfigurationError(f"{where} {ending(done.returncode)}; what it says: {name} get <<< {registry}")
    try:
        found = json.loads(done.stdout)
        user, secret = found["Username"], found["Secret"]
    except (ValueError, LookupError, TypeError):
        raise ConfigurationError(f"{where} has answered something else than a user and password") from None
    return Login("", "", secret) if user == _TOKEN_USER else Login(str(user), str(secret))
