"""Faults of disks end with the test that has made them, and are told where they mattered."""

import pytest

from tests.accelerator import ACCEL
from tests.guests import tiny_linux
from tests.templates import templates

TESTS = """
import pytest

WRITE = "dd if=/dev/zero of=/dev/vda bs=4k count=1 seek=5000 oflag=direct"

@pytest.fixture(scope="module")
def shared(readonly_vm_module):
    readonly_vm_module.run("umount /mnt")  # nobody but the tests writes to the disk, however long they take
    return readonly_vm_module

def test_leaves_them_on(shared):
    shared.disk.error("write")
    shared.disk.throttle(iops=1, may_be_unused=True)
    assert not shared.run(WRITE, check=False).ok

def test_has_a_whole_disk(shared):
    shared.run(WRITE)

def test_is_of_no_use(shared):
    shared.disk.error("read", sector=99)

def test_fails(shared):
    shared.disk.hang()
    shared.disk.error("flush", sector=None)
    assert shared.disk.error("write").hits == 7

def test_kills(readonly_vm):
    fault = readonly_vm.disk.full()
    readonly_vm.kill()

def test_still_has_a_whole_disk(shared):
    shared.run(WRITE)

def test_stands_still(shared):
    shared.disk.full()
    shared.run(WRITE)
"""


def test_faults_end_with_their_test(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_disks=TESTS)
    guest = tiny_linux()
    result = pytester.runpytest_subprocess(
        f"--vm-image={guest.disk}", f"--vm-kernel={guest.kernel}", f"--vm-initrd={guest.initrd}",
        f"--vm-append={guest.append}", "--vm-memory=128M", f"--vm-accel={ACCEL}", "--vm-channel=shell",
        "--vm-network=none", "--vm-budget=off", "-p", "no:cacheprovider", f"--vm-cache={templates()}",
        "--vm-report=page.html", "-rA",
    )  # fmt: skip
    result.stdout.fnmatch_lines_random(
        [
            "test_disks.py (module): disk0: error('read', sector=99): the guest has asked nothing such of the disk",
            "ERROR test_disks.py::test_is_of_no_use - FaultUnused: *",
            "FAILED test_disks.py::test_fails - *",
            "*disk0: hang(): 0 requests met",
            "E *GuestPaused: *: disk0 cannot be written, by the fault full() of this test*",
        ]
    )
    result.assert_outcomes(passed=5, failed=2, errors=1)
    [overview] = pytester.path.glob("test-results/test_disks.py-test_stands_still-*/**/overview.txt")
    assert "disk0: full(): 1 request met" in overview.read_text()
    page = pytester.path / "page.html"
    assert "disk0: throttle(iops=1)" in page.read_text()
