"""Owns the fixtures as pytest knows them: names, scopes, what they say of themselves, and what each asks for.

A ladder of which every rung can be overridden in a ``conftest.py``; what a rung does, `ladder` says.

``vm_image``, ``vm_memory``, … (one for each setting) → ``vm_config`` → ``readonly_vm_factory`` → ``readonly_vm``.
A machine of a wider scope has its own two rungs: ``vm_config_module`` → ``readonly_vm_module``, and so on.
"""

import inspect
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from pytest_readonly_vm.config.table import OPTIONS, SCOPES
from pytest_readonly_vm.plugin.door import Door

if TYPE_CHECKING:
    from pytest_readonly_vm.config.settings import VmConfig
    from pytest_readonly_vm.machine.cluster import Cluster
    from pytest_readonly_vm.machine.vm import VirtualMachine
    from pytest_readonly_vm.plugin.ladder import NetworkFactory, VmFactory


def fixture_module(config: pytest.Config) -> ModuleType:
    """All fixtures, as a plugin module to register. Made at run time: the images decide how often tests run."""
    module = ModuleType("pytest_readonly_vm fixtures")
    fixtures: dict[str, object] = {f"vm_{name}": _setting_fixture(name) for name in OPTIONS}
    fixtures["vm_image"] = _image_fixture(config)
    wanted = _signature(*(f"vm_{name}" for name in OPTIONS))
    for scope in SCOPES:
        suffix = "" if scope == "function" else f"_{scope}"
        fixtures[f"vm_config{suffix}"] = _config_fixture(scope, f"vm_config{suffix}", wanted)
        fixtures[f"vm_private_network{suffix}"] = _network_fixture(scope, f"vm_private_network{suffix}")
        if scope != "function":
            fixtures[f"readonly_vm_{scope}"] = _shared_machine_fixture(scope)
    fixtures["readonly_vm_factory"] = readonly_vm_factory
    fixtures["readonly_vm"] = readonly_vm
    fixtures["readonly_vm_cluster"] = readonly_vm_cluster
    vars(module).update(fixtures)
    return module


@pytest.fixture
def readonly_vm_factory(
    request: pytest.FixtureRequest, vm_config: "VmConfig", vm_private_network: "NetworkFactory"
) -> "Iterator[VmFactory]":
    """Call it for as many machines as the test needs: ``readonly_vm_factory(memory="2G", name="server")``."""
    yield from _ladder(request).factory(request, vm_config, vm_private_network)


@pytest.fixture
def readonly_vm(request: pytest.FixtureRequest, vm_config: "VmConfig", readonly_vm_factory: "VmFactory") -> Any:
    """A pristine virtual machine for this test alone (or shared: --vm-scope), booted, its base image read-only."""
    return _ladder(request).machine(request, vm_config, readonly_vm_factory)


@pytest.fixture
def readonly_vm_cluster(request: pytest.FixtureRequest, vm_config: "VmConfig") -> "Iterator[Cluster]":
    """The machines of the cluster that vm_cluster forms, for this test alone: pristine, formed, of one moment."""
    yield from _ladder(request).cluster(request, vm_config)


def _ladder(request: pytest.FixtureRequest) -> Any:
    """What the rungs do."""
    Door.of(request.config).open_within_test()
    from pytest_readonly_vm.plugin import ladder

    return ladder


def _setting_fixture(name: str) -> object:
    def setting(request: pytest.FixtureRequest) -> object:
        return _ladder(request).setting(request, name)

    setting.__doc__ = f"Setting {name} of the virtual machine: {OPTIONS[name].help}."
    return pytest.fixture(scope="session", name=f"vm_{name}")(setting)


def _image_fixture(config: pytest.Config) -> object:
    def vm_image(request: pytest.FixtureRequest) -> object:
        """Base image of the virtual machine; with several --vm-image, every test that uses it runs once for each."""
        return _ladder(request).image(request)

    several: dict[str, Any] = {}
    if Door.of(config).is_open:
        from pytest_readonly_vm.plugin.ladder import image_parameters

        several = image_parameters(config)
    return pytest.fixture(scope="session", **several)(vm_image)


def _config_fixture(scope: str, name: str, wanted: inspect.Signature) -> object:
    def vm_config(request: pytest.FixtureRequest, **values: object) -> "VmConfig":
        config: VmConfig = _ladder(request).config(request, scope, values)
        return config

    owner = "test's own virtual machine" if scope == "function" else f"{scope}'s shared virtual machine"
    vm_config.__doc__ = f"All settings of this {owner}, a VmConfig; override it to change several at once."
    # Asked for one by one, and not through a fixture between, each setting's fixture can be overridden with a scope and
    # parameters of its own, as long as the machine does not outlive it.
    return _fixture(vm_config, scope, name, wanted)


def _shared_machine_fixture(scope: str) -> object:
    def readonly_vm(request: pytest.FixtureRequest, **rungs: Any) -> "Iterator[VirtualMachine]":
        config, network = rungs[f"vm_config_{scope}"], rungs[f"vm_private_network_{scope}"]
        yield from _ladder(request).shared_machine(request, scope, config, network)

    readonly_vm.__doc__ = f"A virtual machine that all tests of a {scope} share, pristine for the first of them."
    wanted = _signature(f"vm_config_{scope}", f"vm_private_network_{scope}")
    return _fixture(readonly_vm, scope, f"readonly_vm_{scope}", wanted)


def _network_fixture(scope: str, name: str) -> object:
    def vm_private_network(request: pytest.FixtureRequest) -> "Iterator[NetworkFactory]":
        yield from _ladder(request).networks(request, scope)

    whose = "this test" if scope == "function" else f"all tests of a {scope}"
    vm_private_network.__doc__ = f"Call it for networks among machines of {whose}: ``vm_private_network('lan')``."
    return _fixture(vm_private_network, scope, name, _signature())


def _fixture(function: Callable[..., object], scope: str, name: str, wanted: inspect.Signature) -> object:
    """
    pytest's own package scope means the package that *defines* a fixture, so for a plugin's the whole session. A
    machine of the package that a test is in is looked up for each of its modules instead.
    """
    function.__signature__ = wanted  # type: ignore[attr-defined]
    return pytest.fixture(scope="module" if scope == "package" else scope, name=name)(function)  # type: ignore[call-overload]


def _signature(*fixtures: str) -> inspect.Signature:
    """The parameters by which pytest knows what a fixture needs."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Signature([inspect.Parameter(name, kind) for name in ("request", *fixtures)])
