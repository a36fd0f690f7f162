"""Owns what is asked of an emulator where its builds differ: what its processors can be told, which devices it has."""

import json
from dataclasses import dataclass
from typing import Any

from pytest_readonly_vm.host.once import OncePerKey
from pytest_readonly_vm.host.qemu_binary import Qemu
from pytest_readonly_vm.host.tool import run_tool

_PATIENCE = 20.0
_UNASKED = ("x86_64", "i386")
_CPU, _PROFILE, _PANIC_DEVICE = "max", "rva23s64", "pvpanic-pci"
_QUESTIONS: tuple[dict[str, object], ...] = (
    {"execute": "qmp_capabilities"},
    {"execute": "query-cpu-model-expansion", "arguments": {"type": "full", "model": {"name": _CPU}}, "id": _CPU},
    {
        "execute": "query-cpu-model-expansion",
        "arguments": {"type": "full", "model": {"name": _PROFILE}},
        "id": _PROFILE,
    },
    {"execute": "device-list-properties", "arguments": {"typename": _PANIC_DEVICE}, "id": _PANIC_DEVICE},
    {"execute": "quit"},
)


@dataclass(frozen=True, slots=True)
class Features:
    """What an emulator said. Of x86's nothing is asked: what machines get by default, all of them have."""

    max_cpu: frozenset[str] = frozenset()
    """Properties of the CPU model ``max`` under TCG; none if it cannot be asked, or there is no such model."""
    has_rva23: bool = False
    """Whether there is a CPU model of that profile, the newest of RISC-V that distributions are built for."""
    has_pvpanic_pci: bool = False


_asked: OncePerKey[str, Features] = OncePerKey()


def find_features(qemu: Qemu) -> Features:
    """What this emulator has; 0.1 s when first asked in a process, and nothing for x86.

    :raises OSError: it cannot be started.
    """
    if qemu.arch in _UNASKED:
        return Features()
    return _asked.get(qemu.identity(), lambda: _ask(qemu))


def _ask(qemu: Qemu) -> Features:
    argv = [str(qemu.path), "-M", "none", "-accel", "tcg", "-nodefaults", "-no-user-config", "-display", "none"]
    text = "".join(json.dumps(question) for question in _QUESTIONS)
    done = run_tool([*argv, "-qmp", "stdio"], timeout=_PATIENCE, stdin=text.encode())
    lines: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    answers = {line["id"]: line["return"] for line in lines if "id" in line and "return" in line}
    cpu = answers[_CPU]["model"]["props"] if _CPU in answers else ()
    return Features(max_cpu=frozenset(cpu), has_rva23=_PROFILE in answers, has_pvpanic_pci=_PANIC_DEVICE in answers)
