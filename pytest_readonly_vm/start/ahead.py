"""Owns templates that are made before anybody wants a machine of them, while tests run that start from others."""

import contextlib
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.errors import VmError
from pytest_readonly_vm.qemu.spec import MachineSpec
from pytest_readonly_vm.start.maker import Maker
from pytest_readonly_vm.start.migration import Unfrozen
from pytest_readonly_vm.start.templates import Refused, Templates

_MOMENT = 0.1
"""Seconds after which it is looked again whether a boot has ended that nobody waits for any more."""


class MakeSpec(Protocol):
    """Says what a machine takes on this computer."""

    def __call__(self, config: VmConfig, name: str, *, is_spare: bool = False) -> MachineSpec: ...


class TemplatesAhead:
    """One at a time, and each is tried once: what comes to nothing here is told to who wants the machine.

    No code of the user's runs beside a test: of a machine with layers the guest is made that is below them, and no
    cluster is formed.
    """

    def __init__(self, templates: Templates, maker: Maker, spec: MakeSpec) -> None:
        self._templates = templates
        self._maker = maker
        self._spec = spec
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="readonly-vm ahead")
        self._asked: dict[VmConfig, Future[None]] = {}

    def make(self, wanted: tuple[VmConfig, str] | None) -> None:
        """Begin to make the template of machines of a configuration; the name is of the test that will want one."""
        if wanted is None:
            return
        config, name = wanted
        is_here = config.image is None or isinstance(config.image, Path)
        if config.start == "cold" or config.cluster is not None or not isinstance(config.ready, str) or not is_here:
            return
        even_if_quick = config.start == "clone" or bool(config.layers)
        config = replace(config, layers=())
        if config not in self._asked:
            self._asked[config] = self._threads.submit(self._make, config, name, even_if_quick)

    def _make(self, config: VmConfig, name: str, even_if_quick: bool) -> None:
        with contextlib.suppress(VmError, OSError):
            try:
                self._templates.get(self._spec(config, name, is_spare=True), even_if_quick=even_if_quick)
            except Refused as refused:
                self._maker.discard(refused.instance)
            except Unfrozen:
                pass

    def close(self) -> None:
        """End what is being made."""
        for made in self._asked.values():
            made.cancel()
        while wait(self._asked.values(), _MOMENT).not_done:
            for instance in tuple(self._maker.resources.spare):
                instance.process.kill()
        self._threads.shutdown()
