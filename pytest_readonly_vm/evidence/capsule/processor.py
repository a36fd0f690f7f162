"""Owns what the processors of a machine can do, as its guest has seen it when it booted.

A guest that goes on without what it has found there crashes at some later moment, or computes something else. QEMU
loads the state all the same: under KVM ``max`` and ``host`` are what this computer has, under TCG what this QEMU can.
"""

from pytest_readonly_vm.channels.qmp import Qmp


async def features(qmp: Qmp) -> tuple[str, ...]:
    """The names that QEMU has for what its first processor can do, and does: ``avx2``, ``pauth``, …; on the loop."""
    first = (await qmp.command("query-cpus-fast"))[0]["qom-path"]
    known = await qmp.command("qom-list", {"path": first})
    switches = [item["name"] for item in known if item["type"] == "bool"]
    return tuple(sorted([name for name in switches if await qmp.command("qom-get", {"path": first, "property": name})]))
