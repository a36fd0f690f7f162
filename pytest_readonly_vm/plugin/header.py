"""Owns the lines at the beginning of a run: with what the machines run, and what the bases are."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from pytest_readonly_vm.config.image_reference import ImageReference
from pytest_readonly_vm.config.qemu_args import what_no_copy_has
from pytest_readonly_vm.config.setting import Given
from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.errors import HostError, VmError
from pytest_readonly_vm.plugin.given import given_images, given_settings, is_run_elsewhere


def lines(config: pytest.Config) -> list[str]:
    """Nothing where there is nothing to boot: finding out takes QEMU to be started.

    Problems are shown and left to the tests that will meet them; others of the run may need no machine.
    """
    images, settings = given_images(config), given_settings(config)
    wanted = VmConfig().with_settings(settings)
    if not (images or wanted.boots) or is_run_elsewhere(config):
        return []
    try:
        return describe(images, settings)
    except VmError as error:
        return [f"vm: {error}"]


def _start(wanted: VmConfig) -> list[str]:
    """How machines come to be, where it is not the usual way."""
    if wanted.start != "auto":
        return [f"vm: start: {wanted.start} (from {wanted.origin('start')})"]
    reason = what_no_copy_has(wanted.qemu_args)
    return [f"vm: start: cold, as {reason}"] if reason else []


def describe(images: tuple[Given, ...], settings: Mapping[str, Given]) -> list[str]:
    """What is said of this computer, and of the images as far as they can be looked at.

    :raises VmError: no machine starts here.
    """
    wanted = VmConfig().with_settings(settings)
    # These load asyncio and more, which a run without machines is not to pay for.
    from pytest_readonly_vm.host.folders import require_cache
    from pytest_readonly_vm.host.hypervisor import find_hypervisor
    from pytest_readonly_vm.host.os_errors import host_errors
    from pytest_readonly_vm.host.qemu_binary import find_qemu_img
    from pytest_readonly_vm.qemu.architecture import choose_arch
    from pytest_readonly_vm.start.cache import default_folder

    with host_errors("QEMU cannot be asked"):
        qemu_img = find_qemu_img(wanted.qemu)
        bases = [_base(image, wanted, qemu_img) for image in images]
        archs = dict.fromkeys(arch for _, arch in bases if arch) or [choose_arch(wanted, layout=lambda: None)]
        hypervisors = [find_hypervisor(wanted, arch=arch, qemu_img=qemu_img) for arch in archs]
    found = []
    for one in hypervisors:
        slow = "; guests run many times slower" if (wanted.accel, one.accelerator.name) == ("auto", "tcg") else ""
        found.append(f"vm: {one.describe()}{slow}")
    found += [f"vm: seal: {hypervisors[0].seal.describe()}; verify: {wanted.verify}", *_start(wanted)]
    if wanted.start in ("auto", "clone") and not wanted.no_cache:
        try:
            require_cache(wanted.cache or default_folder())
        except HostError as error:
            found.append(f"vm: cache (from {wanted.origin('cache')}): guests are not kept for later runs: {error}")
    return found + [f"vm: {line}" for line, _ in bases]


def _base(image: Given, wanted: VmConfig, qemu_img: Path) -> tuple[str, str | None]:
    """What is said of a base image, and the architecture of its machines, as far as it can be looked at already."""
    from pytest_readonly_vm.host.os_errors import host_errors
    from pytest_readonly_vm.image.base import open_base
    from pytest_readonly_vm.image.layout import read_layout
    from pytest_readonly_vm.qemu.architecture import choose_arch
    from pytest_readonly_vm.sources.image_list import listed
    from pytest_readonly_vm.sources.unpack import is_packed

    try:
        config = listed(wanted.with_settings({"image": image}))
        path = config.image
        assert path is not None
        if isinstance(path, ImageReference):
            return f"base {path.describe()} (from {image.origin})", None
        with host_errors(f"base image {path} (from {image.origin}) cannot be looked at"):
            if path.is_file() and is_packed(path):
                return f"base {path} (packed, from {image.origin})", None
            base = open_base(path, format=wanted.format, origin=image.origin, qemu_img=qemu_img)
            try:
                arch = choose_arch(config, layout=lambda: read_layout(base, qemu_img=qemu_img))
            finally:
                base.close()
    except VmError as error:
        return str(error), None
    below = f", a chain of {len(base.chain)} files" if len(base.chain) > 1 else ""
    return f"base {path} ({base.format}{below}, from {image.origin})", arch
