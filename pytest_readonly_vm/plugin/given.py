"""Owns what was given of settings, by option, environment or ini file, and the order among these.

Markers and fixtures come later, and win; see `markers` and `fixtures`.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import pytest

from pytest_readonly_vm.config.setting import Given
from pytest_readonly_vm.config.settings import SETTINGS, VmConfig, parse
from pytest_readonly_vm.config.table import OPTIONS
from pytest_readonly_vm.config.values import nearest
from pytest_readonly_vm.errors import ConfigurationError, HostError
from pytest_readonly_vm.plugin.options import PREFIX

_ELSEWHERE = re.compile(r"(^|/|\*)(ssh|vagrant_ssh)=")
"""In a specification of execnet's, as of ``--tx``."""

_given = pytest.StashKey[Mapping[str, Given]]()
_images = pytest.StashKey[tuple[Given, ...]]()


def read_settings(config: pytest.Config) -> None:
    """Read and check what was given, so that a wrong value ends the run before anything is collected.

    :raises pytest.UsageError: an impossible value, or an environment variable that resembles none of the settings.
    """
    for variable in os.environ:
        name = variable.removeprefix(PREFIX).lower()
        if variable.startswith(PREFIX) and name not in OPTIONS:
            hint = nearest(variable, [PREFIX + known.upper() for known in OPTIONS])
            raise pytest.UsageError(f"{variable} in the environment is no setting of pytest-readonly-vm{hint}")
    try:
        found = {name: given for name in OPTIONS if (given := _find(config, name)) is not None}
        images = _each_image(found.pop("image", None))
        config.stash[_given] = {name: Given(parse(name, given), given.origin) for name, given in found.items()}
        config.stash[_images] = tuple(Given(parse("image", given), given.origin) for given in images)
    except ConfigurationError as error:
        raise pytest.UsageError(str(error)) from None
    if is_run_elsewhere(config):  # where all of this is to be
        return
    _require_cache(config.stash[_given])
    for image in config.stash[_images]:
        if image.origin == "--vm-image":
            _require_image(image)


def _require_image(given: Given) -> None:
    """What somebody names in this very command is to be there: a file, or a name that a list has."""
    try:
        if isinstance(given.value, Path):
            given.value.stat()
        else:
            from pytest_readonly_vm.sources.image_list import listed  # which only a name takes

            listed(VmConfig().with_settings({"image": given}))
    except OSError as error:
        raise pytest.UsageError(f"--vm-image: {given.value}: {error.strerror}") from None
    except ConfigurationError as error:
        raise pytest.UsageError(str(error)) from None


def _require_cache(settings: Mapping[str, Given]) -> None:
    """A cache that somebody asks for in this very command is to be had; else `header` says that it is not."""
    cache = settings.get("cache")
    if cache is None or cache.origin != "--vm-cache" or "no_cache" in settings:
        return
    from pytest_readonly_vm.host.folders import require_cache  # which other runs are not to pay for

    try:
        require_cache(cast(Path, cache.value))
    except HostError as error:
        raise pytest.UsageError(f"--vm-cache: {error}") from None


def is_run_elsewhere(config: pytest.Config) -> bool:
    """Whether this is xdist's controller, and all workers are on other hosts. Nothing of those is known here."""
    specs: list[str] = config.getoption("tx", None) or []
    if hasattr(config, "workerinput") or config.getoption("dist", "no") == "no":
        return False
    return bool(specs) and all(_ELSEWHERE.search(spec) for spec in specs)


def given_settings(config: pytest.Config) -> Mapping[str, Given]:
    """What option, environment and ini file give, each value parsed, image apart. What nobody gave is missing."""
    return config.stash[_given]


def given_images(config: pytest.Config) -> tuple[Given, ...]:
    """The base images to run with, none or several; paths are absolute."""
    return config.stash[_images]


def configured(config: pytest.Config, values: Mapping[str, object]) -> VmConfig:
    """The configuration that a value for each setting makes; one that is as it was given keeps its origin.

    :raises ConfigurationError: a value is impossible.
    """
    known = dict(given_settings(config))
    for image in given_images(config):
        if image.value == values["image"]:
            known["image"] = image
    default = VmConfig()
    given = {}
    for name in SETTINGS:
        value = values[name]
        if name in known and value == known[name].value:
            given[name] = known[name]
        elif value != getattr(default, name):
            given[name] = Given(value, f"fixture vm_{name}", config.rootpath)
    return default.with_settings(given)


def _find(config: pytest.Config, name: str) -> Given | None:
    here = Path(config.invocation_params.dir)
    if (value := config.getoption(f"vm_{name}")) is not None:
        option = f"--vm-{name.replace('_', '-')}"
        if config.getoption("tx", None) and not _is_utf8(value):
            reason = "is not UTF-8, so xdist cannot tell its workers; set the variable"
            raise pytest.UsageError(f"{option}: {value!r} {reason} {PREFIX}{name.upper()} instead")
        return Given(OPTIONS[name].of_options(value), option, here)
    if (value := os.environ.get(PREFIX + name.upper())) is not None:
        return Given(OPTIONS[name].of_variable(value), PREFIX + name.upper(), here)
    origin = f"{config.inipath.name if config.inipath else 'ini'}: vm_{name}"
    try:
        value = config.getini(f"vm_{name}")
    except (TypeError, ValueError, pytest.UsageError) as error:
        raise pytest.UsageError(f"{origin}: {error}") from None
    return None if value is None else Given(value, origin, config.inipath.parent if config.inipath else config.rootpath)


def _is_utf8(value: object) -> bool:
    try:
        "".join(value if isinstance(value, list) else [str(value)]).encode()
    except UnicodeEncodeError:
        return False
    return True


def _each_image(given: Given | None) -> list[Given]:
    if given is None:
        return []
    values = given.value if isinstance(given.value, list) else [given.value]
    return [Given(value, given.origin, given.folder) for value in values]
