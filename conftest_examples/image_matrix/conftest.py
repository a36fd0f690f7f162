"""Every test runs on every guest of the table. What a guest needs is said by overriding the settings' fixtures."""

from pathlib import Path

import pytest

IMAGES = Path(__file__).parent / "images"
GUESTS = {
    "server": {"image": IMAGES / "server.qcow2"},
    "old-server": {"image": IMAGES / "old-server.img", "memory": "512M", "disk_interface": "ide"},
}


@pytest.fixture(scope="session", params=GUESTS)
def guest(request):
    return GUESTS[request.param]


@pytest.fixture(scope="session")
def vm_image(guest):
    return guest["image"]


@pytest.fixture(scope="session")
def vm_memory(guest, vm_memory):
    return guest.get("memory", vm_memory)


@pytest.fixture(scope="session")
def vm_disk_interface(guest, vm_disk_interface):
    return guest.get("disk_interface", vm_disk_interface)
