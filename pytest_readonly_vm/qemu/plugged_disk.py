"""Owns a further disk that is plugged into a machine while it runs. As of cards, a machine with PCI Express has few
places for one; on a bus of SCSI or USB that the machine has there are more.
"""

from typing import Any

from pytest_readonly_vm.channels.qmp import Qmp
from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.errors import QmpError, VmError
from pytest_readonly_vm.qemu import board

_BUSES = {"scsi": ("scsi-hd", "scsi0.0"), "usb": ("usb-storage", "usb0.0")}


async def plug_disk(qmp: Qmp, node: str, serial: str, config: VmConfig, arch: str, *, name: str) -> None:
    """Plug a disk into a machine that runs; on the loop.

    :param node: of QEMU's block layer, which is the disk.
    :param serial: by which the guest finds it; also QEMU's name for the device.
    :raises VmError: the machine takes none, or has no place left.
    """
    common: dict[str, Any] = {"drive": node, "serial": serial, "id": serial}
    if config.disk_interface in _BUSES and config.image is not None:
        driver, bus = _BUSES[config.disk_interface]
        tries = [{"driver": driver, "bus": bus, **common}]
    elif not board.takes_cards(config, arch):
        kind = board.machine_type(config, arch)
        raise VmError(f"{name}: no disk can be plugged into a machine of the type {kind} while it runs")
    else:
        bus = board.virtio_bus(config, arch)
        ports = [{"bus": port} for port in board.spare_ports(config, arch)]
        tries = [{"driver": f"virtio-blk-{bus}", **port, **common} for port in ports or [{}]]
    refusal = ""
    for device in tries:
        try:
            await qmp.command("device_add", device)
        except QmpError as refused:
            refusal = refused.description
        else:
            return
    raise VmError(f"{name}: no place is left for a further disk: {refusal}")
