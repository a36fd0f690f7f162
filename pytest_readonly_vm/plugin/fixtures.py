"""Owns the fixtures, a ladder of which every rung can be overridden in a ``conftest.py``.

``vm_image``, ``vm_memory``, … (one for each setting) → ``vm_config`` → ``readonly_vm_factory`` → ``readonly_vm``.
A machine of a wider scope has its own two rungs: ``vm_config_module`` → ``readonly_vm_module``, and so on.
"""

import contextlib
import inspect
import itertools
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from pytest_readonly_vm.config.setting import Given
from pytest_readonly_vm.config.settings import SCOPES, SETTINGS, VmConfig
from pytest_readonly_vm.errors import ConfigurationError
from pytest_readonly_vm.plugin import markers
from pytest_readonly_vm.plugin.options import given_images, given_settings
from pytest_readonly_vm.plugin.run import Run

if TYPE_CHECKING:
    from pytest_readonly_vm.machine.vm import VirtualMachine


class VmFactory(Protocol):
    """What the fixture ``readonly_vm_factory`` gives."""

    def __call__(self, *, name: str | None = None, **settings: object) -> "VirtualMachine":
        """Start one more machine: `vm_config` with these settings changed. It ends with the test at the latest.

        :param name: shown in messages and process lists, beside the test's own name.
        """


def fixture_module(config: pytest.Config) -> ModuleType:
    """All fixtures, as a plugin module to register. Made at run time: the images decide how often tests run."""
    module = ModuleType("pytest_readonly_vm fixtures")
    fixtures: dict[str, object] = {f"vm_{name}": _setting_fixture(name) for name in SETTINGS}
    fixtures["vm_image"] = _image_fixture(config)
    for scope in SCOPES:
        suffix = "" if scope == "function" else f"_{scope}"
        fixtures[f"vm_config{suffix}"] = _config_fixture(scope, f"vm_config{suffix}")
        if scope != "function":
            fixtures[f"readonly_vm_{scope}"] = _shared_machine_fixture(scope)
    fixtures["readonly_vm_factory"] = readonly_vm_factory
    fixtures["readonly_vm"] = readonly_vm
    vars(module).update(fixtures)
    return module


@pytest.fixture
def readonly_vm_factory(request: pytest.FixtureRequest, vm_config: VmConfig) -> Iterator[VmFactory]:
    """Call it for as many machines as the test needs: ``readonly_vm_factory(memory="2G", name="server")``."""
    run = Run.of(request.config)
    numbers = itertools.count(1)  # of which no two threads get the same
    with contextlib.ExitStack() as machines:

        def boot(*, name: str | None = None, **settings: object) -> "VirtualMachine":
            number = next(numbers)
            label = name or (str(number) if number > 1 else "")
            with _usage_errors():
                origin = f"readonly_vm_factory in {request.node.nodeid}"
                given = {key: Given(value, origin, request.path.parent) for key, value in settings.items()}
                wanted = vm_config.with_settings(given)
                return machines.enter_context(run.machine(wanted, request.node, label))

        yield boot


@pytest.fixture
def readonly_vm(request: pytest.FixtureRequest, vm_config: VmConfig, readonly_vm_factory: VmFactory) -> Any:
    """A pristine virtual machine for this test alone (or shared: --vm-scope), booted, its base image read-only."""
    if vm_config.scope == "function":
        Run.of(request.config).lookahead.ran(request.node, vm_config)
        return readonly_vm_factory()
    Run.of(request.config).check_broken(request.node, vm_config.scope)
    shared = request.getfixturevalue(f"readonly_vm_{vm_config.scope}")
    if shared.config != vm_config:
        name = next(name for name in SETTINGS if getattr(shared.config, name) != getattr(vm_config, name))
        raise pytest.UsageError(
            f"{vm_config.origin(name)}: {name} cannot differ for one test, which shares the machine of its "
            f"{vm_config.scope} (scope, from {vm_config.origin('scope')})"
        )
    return shared


def _setting_fixture(name: str) -> object:
    def setting(request: pytest.FixtureRequest) -> object:
        given = given_settings(request.config).get(name)
        return given.value if given else getattr(VmConfig(), name)

    setting.__doc__ = f"Setting {name} of the virtual machine: {SETTINGS[name].help}."
    return pytest.fixture(scope="session", name=f"vm_{name}")(setting)


def _image_fixture(config: pytest.Config) -> object:
    images = given_images(config)

    def vm_image(request: pytest.FixtureRequest) -> object:
        """Base image of the virtual machine; with several --vm-image, every test that uses it runs once for each."""
        if hasattr(request, "param"):
            return request.param.value
        return images[0].value if images else None

    several = {"params": images, "ids": _ids([str(image.value) for image in images])} if len(images) > 1 else {}
    return pytest.fixture(scope="session", **several)(vm_image)  # type: ignore[call-overload]


def _ids(paths: list[str]) -> list[str]:
    """A short id for each path: as few of its last parts as tell it from the others, if possible without suffix."""
    stems = [path.rsplit(".", 1)[0] for path in paths]
    for parts in range(1, 10):
        for names in (stems, paths):
            ids = ["-".join(name.split("/")[-parts:]) for name in names]
            if len(set(ids)) == len(ids):
                return ids
    return [f"image{number}" for number in range(len(paths))]


def _config_fixture(scope: str, name: str) -> object:
    def vm_config(request: pytest.FixtureRequest, **values: object) -> VmConfig:
        node = _package_of(request) if scope == "package" else request.node
        with _usage_errors():
            return markers.applied(_from_fixtures(request, values), node)

    owner = "test's own virtual machine" if scope == "function" else f"{scope}'s shared virtual machine"
    vm_config.__doc__ = f"All settings of this {owner}, a VmConfig; override it to change several at once."
    # Asked for one by one, and not through a fixture between, each setting's fixture can be overridden with a scope and
    # parameters of its own, as long as the machine does not outlive it.
    _with_parameters(vm_config, ["request", *(f"vm_{setting}" for setting in SETTINGS)])
    return pytest.fixture(scope=_pytest_scope(scope), name=name)(vm_config)  # type: ignore[call-overload]


def _with_parameters(function: Callable[..., object], names: list[str]) -> None:
    """Give a fixture function the parameters by which pytest knows what it needs."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    function.__signature__ = inspect.Signature([inspect.Parameter(name, kind) for name in names])  # type: ignore[attr-defined]


def _from_fixtures(request: pytest.FixtureRequest, values: dict[str, object]) -> VmConfig:
    """The configuration that the settings' fixtures add up to; a value that nobody overrode keeps its origin."""
    known = dict(given_settings(request.config))
    for image in given_images(request.config):
        if image.value == values["vm_image"]:
            known["image"] = image
    default = VmConfig()
    given = {}
    for name in SETTINGS:
        value = values[f"vm_{name}"]
        if name in known and value == known[name].value:
            given[name] = known[name]
        elif value != getattr(default, name):
            given[name] = Given(value, f"fixture vm_{name}", request.config.rootpath)
    return default.with_settings(given)


def _shared_machine_fixture(scope: str) -> object:
    def readonly_vm(request: pytest.FixtureRequest, **configs: VmConfig) -> Iterator["VirtualMachine"]:
        [config] = configs.values()
        run = Run.of(request.config)
        with _usage_errors():
            if scope == "package":
                yield run.shared_machine(config, _package_of(request), scope)
            else:
                with run.machine(config, request.node, scope) as vm:
                    yield vm

    readonly_vm.__doc__ = f"A virtual machine that all tests of a {scope} share, pristine for the first of them."
    _with_parameters(readonly_vm, ["request", f"vm_config_{scope}"])
    return pytest.fixture(scope=_pytest_scope(scope), name=f"readonly_vm_{scope}")(readonly_vm)  # type: ignore[call-overload]


def _pytest_scope(scope: str) -> str:
    """pytest's own package scope means the package that *defines* a fixture, so for a plugin's the whole session.

    A machine of the package that a test is in is looked up for each of its modules instead; see `_package_of`.
    """
    return "module" if scope == "package" else scope


def _package_of(request: pytest.FixtureRequest) -> pytest.Collector:
    """The innermost package that has the module of a request, or the session for a module outside of any."""
    return request.node.getparent(pytest.Package) or request.session


@contextlib.contextmanager
def _usage_errors() -> Iterator[None]:
    """Wrong settings are the user's to mend, so pytest is to say so."""
    try:
        yield
    except ConfigurationError as error:
        raise pytest.UsageError(str(error)) from None
