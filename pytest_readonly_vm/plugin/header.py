"""Owns the lines at the beginning of a run: with what the machines run, and what the bases are."""

import pytest

from pytest_readonly_vm.config.image_reference import ImageReference
from pytest_readonly_vm.config.qemu_args import what_no_copy_has
from pytest_readonly_vm.config.setting import Given
from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.errors import HostError, VmError
from pytest_readonly_vm.plugin.given import given_images, given_settings


def lines(config: pytest.Config) -> list[str]:
    """Nothing where there is nothing to boot: finding out takes QEMU to be started.

    Problems are shown and left to the tests that will meet them; others of the run may need no machine.
    """
    images, settings = given_images(config), given_settings(config)
    wanted = VmConfig().with_settings(settings)
    return _describe(images, wanted) if images or wanted.boots else []


def _start(wanted: VmConfig) -> list[str]:
    """How machines come to be, where it is not the usual way."""
    if wanted.start != "auto":
        return [f"vm: start: {wanted.start} (from {wanted.origin('start')})"]
    reason = what_no_copy_has(wanted.qemu_args)
    return [f"vm: start: cold, as {reason}"] if reason else []


def _describe(images: tuple[Given, ...], wanted: VmConfig) -> list[str]:
    # These load asyncio and more, which a run without machines is not to pay for.
    from pytest_readonly_vm.host.folders import require_cache
    from pytest_readonly_vm.host.hypervisor import find_hypervisor
    from pytest_readonly_vm.host.os_errors import host_errors
    from pytest_readonly_vm.image.image_list import listed
    from pytest_readonly_vm.image.inspection import inspect_chain
    from pytest_readonly_vm.start.cache import default_folder

    try:
        with host_errors("QEMU cannot be asked"):
            hypervisor = find_hypervisor(wanted)
    except VmError as error:
        return [f"vm: {error}"]
    slow = "; guests run many times slower" if (wanted.accel, hypervisor.accelerator.name) == ("auto", "tcg") else ""
    found = [
        f"vm: {hypervisor.describe()}{slow}",
        f"vm: seal: {hypervisor.seal.describe()}; verify: {wanted.verify}",
        *_start(wanted),
    ]
    if wanted.start in ("auto", "clone") and not wanted.no_cache:
        try:
            require_cache(wanted.cache or default_folder())
        except HostError as error:
            found.append(f"vm: cache (from {wanted.origin('cache')}): guests are not kept for later runs: {error}")
    for image in images:
        try:
            path = listed(VmConfig().with_settings({"image": image})).image
            assert path is not None
            shown = f"base image {path} (from {image.origin})"
            if isinstance(path, ImageReference):
                found.append(f"vm: base {path.describe()} (from {image.origin})")
                continue
            with host_errors(f"{shown} cannot be looked at"):
                chain = inspect_chain(path, format=wanted.format, shown=shown, qemu_img=hypervisor.qemu_img)
        except VmError as error:
            found.append(f"vm: {error}")
            continue
        below = f", a chain of {len(chain)} files" if len(chain) > 1 else ""
        found.append(f"vm: base {path} ({chain[0].format}{below}, from {image.origin})")
    return found
