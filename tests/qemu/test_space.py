"""A full disk on the host stops a guest with a reason; it corrupts nothing and leaves nothing behind."""

import sys
from collections.abc import Callable

import pytest

from pytest_readonly_vm import GuestPaused, VirtualMachine
from tests.accelerator import ACCEL
from tests.forked import PLAIN
from tests.guests.tiny_linux import PROMPT, tiny_linux
from tests.mount_namespace import own_mounts


def run_on_a_small_disk(pytester: pytest.Pytester, size: str, *arguments: str) -> pytest.RunResult:
    """Run pytest with a TMPDIR of that size: a tmpfs in a mount namespace of its own."""
    small = pytester.mkdir("small")
    guest = tiny_linux()
    command = f'mount -t tmpfs -o size={size} none {small} && TMPDIR={small} exec {sys.executable} -m pytest "$@"'
    result = pytester.run(
        *own_mounts(), "sh", "-c", command, "sh",
        f"--vm-image={guest.disk}", f"--vm-kernel={guest.kernel}", f"--vm-initrd={guest.initrd}",
        f"--vm-append={guest.append}", f"--vm-ready=console:{PROMPT}", "--vm-memory=256M", f"--vm-accel={ACCEL}",
        *PLAIN, *arguments,
        timeout=120,
    )  # fmt: skip
    assert list(small.iterdir()) == []
    return result


def test_a_folder_that_is_nearly_full_is_refused_before_anything_starts(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(readonly_vm): pass")
    result = run_on_a_small_disk(pytester, "32m")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["*small has 32 MiB free, too little for a guest's temporary writes; *use --vm-tmpdir=DIR *"]
    )


def test_one_that_fills_up_stops_the_guest_which_goes_on_when_there_is_room(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        def test_it(readonly_vm, vm_image):
            console, qmp = readonly_vm.console, readonly_vm.qmp
            ballast = readonly_vm.console.log_path.parent / "ballast"
            ballast.write_bytes(bytes(56 << 20))
            console.send("dd if=/dev/zero of=/dev/vda bs=1M count=60 conv=fsync; echo written: $?\\n")
            stopped = qmp.wait_event("BLOCK_IO_ERROR", timeout=60)
            assert stopped.data["nospace"] is True and stopped.data["action"] == "stop"
            assert qmp.execute("query-status")["status"] == "io-error"
            ballast.unlink()
            qmp.execute("cont")
            console.expect("written: 0", timeout=60)
    """)
    run_on_a_small_disk(pytester, "96m").assert_outcomes(passed=1)


def test_an_error_that_a_test_has_made_is_not_blamed_on_the_folder(boot: Callable[..., VirtualMachine]) -> None:
    faults = "inject-error.0.event=none,inject-error.0.iotype=read,inject-error.0.errno=28"
    faulty = f"driver=blkdebug,node-name=bad,read-only=on,image.driver=null-co,{faults}"
    disk = ("-blockdev", faulty, "-device", "virtio-blk-pci,drive=bad,rerror=stop,bootindex=1")
    with pytest.raises(
        GuestPaused, match=r": bad cannot be read: No space left on device \(.* are free; so it is not "
    ):
        boot("hello", qemu_args=disk)
