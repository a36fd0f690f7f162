"""The disk whose power goes, and how thorough the tests are."""

import pytest


def pytest_addoption(parser):
    parser.addoption("--orders", type=int, default=2, help="how many a shop takes before power goes (default: 2)")
    parser.addoption("--cuts", type=int, default=6, help="of how many moments, where there are many (default: 6)")


@pytest.fixture
def orders(pytestconfig):
    """The numbers of those that are taken; for each the disk is flushed up to six times."""
    return range(1, pytestconfig.getoption("orders") + 1)


@pytest.fixture
def cuts(pytestconfig):
    return pytestconfig.getoption("cuts")


@pytest.fixture
def ext4(readonly_vm):
    """A function that makes a file system on the disk, mounts it at /data, and gives the disk."""

    def make(options="defaults"):
        disk = readonly_vm.disks["data"]
        device = disk.guest_path()
        readonly_vm.run(f"mkfs.ext4 -q {device} && mkdir -p /data && mount -t ext4 -o {options} {device} /data")
        return disk

    return make
