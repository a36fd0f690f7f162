"""What of machines cannot be saved and what of capsules is not resumed, each told in a sentence."""

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_readonly_vm import GuestDied, Lab, StartFailed, VirtualMachine, VmConfig, VmError, WaitTimeout
from pytest_readonly_vm.errors import CapsuleRefused, ImageError
from pytest_readonly_vm.evidence.capsule.file import CapsuleReader, new_capsule
from pytest_readonly_vm.evidence.capsule.save import save_capsule
from pytest_readonly_vm.qemu.chain import DiskImage, chain
from tests.accelerator import ACCEL
from tests.qemu import image_tools
from tests.qemu.test_capsule import resumed
from tests.qemu.test_templates import boots_again_from_its_own_disk, tiny
from tests.qemu.waiting import GENEROUS

Start = Callable[..., VirtualMachine]


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


@pytest.fixture
def start(lab: Lab, small: Callable[..., VmConfig]) -> Start:
    """Start the guest `writer`."""

    def start(**settings: object) -> VirtualMachine:
        return lab.start(small("writer", **{"start": "cold", "ready": "console:^written"} | settings), name="guest")

    return start


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory, boot_sector: Callable[[str], Path]) -> Path:
    """The capsule of the guest `writer`, of which everything is small."""
    path = tmp_path_factory.mktemp("quick") / "one.vmcapsule"
    settings = {"memory": "16M", "accel": ACCEL, "ready": "console:^written", "start": "cold", "timeout_factor": 1}
    with Lab() as lab:
        save_capsule(lab.start(VmConfig().replace(image=boot_sector("writer"), **settings), name="guest"), path)
    return path


def repacked(path: Path, target: Path, **changes: Any) -> Path:
    """A copy of a capsule by somebody who knows how: the digests are right.

    `changes` are to the manifest, or the content of a member.
    """
    with CapsuleReader(path) as reader, new_capsule(target, deadline=time.monotonic() + GENEROUS) as writer:
        manifest = json.loads(reader.content("manifest.json", limit=1 << 20))
        for name, size in manifest["sizes"].items():
            with os.fdopen(os.memfd_create(name), "r+b", buffering=0) as file:
                content = changes.pop(name.partition(".")[0], None)
                if content is None:
                    reader.unpack(name, file.fileno(), size=size)
                else:
                    file.write(content)
                manifest["sizes"][name] = writer.add_packed(name, file.fileno())
        writer.add("console.log", b"")
        writer.add("manifest.json", json.dumps(manifest | changes).encode())
    return target


class TestWhatCannotBeSaved:
    def test_a_device_that_cannot_be_saved_is_named(self, start: Start, tmp_path: Path) -> None:
        vm = start(disk_interface="nvme")
        with pytest.raises(
            VmError, match=r"guest: the machine cannot be saved: State blocked by non-migratable .*nvme"
        ):
            save_capsule(vm, tmp_path / "it")
        assert list(tmp_path.iterdir()) == []
        boots_again_from_its_own_disk(vm)

    def test_neither_is_one_that_was_plugged_in_nor_another_disk(
        self, start: Start, tmp_path: Path, boot_sector: Callable[[str], Path]
    ) -> None:
        vm = start()
        vm.qmp.execute("device_add", driver="virtio-rng-pci", id="extra")
        with pytest.raises(VmError, match="devices that were plugged in while it ran: extra"):
            save_capsule(vm, tmp_path / "it")
        vm = start(qemu_args=f"-drive if=virtio,format=raw,snapshot=on,file={boot_sector('hello')}")
        with pytest.raises(VmError, match=r"the machine cannot be saved: qemu_args has .*snapshot=on"):
            save_capsule(vm, tmp_path / "it")
        assert list(tmp_path.iterdir()) == []

    def test_it_takes_no_longer_than_it_may_and_the_guest_goes_on(self, lab: Lab, tmp_path: Path) -> None:
        vm = tiny(lab, start="cold")
        for timeout in (1e-6, 0.05, 0.2):
            with pytest.raises(WaitTimeout, match=f"guest: the capsule was not complete within {timeout:g} s"):
                save_capsule(vm, tmp_path / "it", timeout=timeout)
            assert list(tmp_path.iterdir()) == []
            assert vm.run("echo works").stdout == "works\n"
        save_capsule(vm, tmp_path / "it")

    def test_a_machine_that_has_ended(self, start: Start, tmp_path: Path) -> None:
        vm = start()
        vm.kill()
        with pytest.raises(GuestDied):
            save_capsule(vm, tmp_path / "it")
        assert list(tmp_path.iterdir()) == []

    def test_a_place_where_nobody_may_write(self, start: Start, tmp_path: Path) -> None:
        vm = start()
        with pytest.raises(VmError, match=r"guest: the capsule .*/gone/it cannot be written: No such file"):
            save_capsule(vm, tmp_path / "gone" / "it")
        boots_again_from_its_own_disk(vm)


class TestACapsuleFromElsewhere:
    @pytest.mark.parametrize(
        ("changes", "complaint"),
        [
            ({"devices": ["-device nvme"]}, r"would build otherwise \(-device nvme, .*\); it was saved by version 0"),
            ({"settings": {"memory": 1 << 50}}, "1073741824M of memory, which is more than this computer has"),
            ({"sizes": {"state": 2 << 30, "disk0-0.qcow2": 1}}, "its state is larger than the machine"),
            (
                {"cpu": ["avx1024", "sse2"]},
                rf"whose processor could do what none can here \(avx1024\); .* {ACCEL} of QEMU ",
            ),
            ({"disks": []}, r"has a manifest that makes no sense: the files of its 0 disks .*: disk0-0\.qcow2"),
        ],
    )
    def test_what_this_computer_cannot_resume_is_refused(
        self, lab: Lab, quick: Path, tmp_path: Path, changes: dict[str, Any], complaint: str
    ) -> None:
        path = repacked(quick, tmp_path / "it", **changes)
        with pytest.raises(CapsuleRefused, match=complaint):
            resumed(lab, path)

    def test_an_accelerator_that_is_not_here(
        self, lab: Lab, quick: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("pytest_readonly_vm.host.accel._KVM", tmp_path / "no-kvm")
        path = repacked(quick, tmp_path / "it", accelerator="kvm")
        with pytest.raises(CapsuleRefused, match="was saved under kvm, whose state no other accelerator can load"):
            resumed(lab, path)

    def test_a_disk_that_leads_to_other_files_is_refused(self, lab: Lab, quick: Path, tmp_path: Path) -> None:
        secret, disk = tmp_path / "secret", tmp_path / "disk.qcow2"
        secret.write_bytes(bytes(1 << 20))
        options = f"data_file={secret},data_file_raw=on"
        image_tools.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, disk, "1M")
        for content in (disk.read_bytes(), b"", bytes(65536)):
            with pytest.raises(CapsuleRefused, match=r"disk0-0\.qcow2 is no disk that a capsule can have"):
                resumed(lab, repacked(quick, tmp_path / "it", **{"disk0-0": content}))

    def test_what_a_disk_says_of_its_backing_file_is_not_obeyed(self, lab: Lab, quick: Path, tmp_path: Path) -> None:
        other = tmp_path / "other.img"
        other.write_bytes(bytes(1 << 20))
        disk = image_tools.layer(tmp_path / "disk.qcow2", "qcow2", other, "raw")
        vm = resumed(lab, repacked(quick, tmp_path / "it", **{"disk0-0": disk.read_bytes()}))
        vm.qmp.execute("system_reset")
        vm.console.expect("sector=pristine", timeout=GENEROUS)  # the base's, upon which nothing is written

    @pytest.mark.parametrize("format", ["qcow2", "qed", "vmdk"])
    def test_a_chain_ends_where_it_is_said_to(self, tmp_path: Path, format: str) -> None:
        """By the words that QEMU gets, with paths in place of descriptors; what is below the top is not zero."""
        other, blank = tmp_path / f"other.{format}", tmp_path / "blank.img"
        image_tools.run("qemu-img", "create", "-q", "-f", format, other, "1M")
        image_tools.run("qemu-io", "-f", format, "-c", "write -P 83 0 64k", other)
        blank.write_bytes(bytes(1 << 20))
        top = image_tools.layer(tmp_path / f"top.{format}", format, other, format)

        def said(*layers: Path) -> str:
            text = chain([DiskImage(number, format) for number in range(len(layers))])
            return f"json:{re.sub('/dev/fdset/([0-9])', lambda found: str(layers[int(found[1])]), text)}"

        image_tools.run("qemu-img", "compare", "-q", said(top), blank)
        image_tools.run("qemu-img", "compare", "-q", said(top, other), other)

    @pytest.mark.parametrize("there", ["/proc/kmsg", "/dev/zero", "/", "FIFO", "/etc/passwd"])
    def test_nothing_is_read_of_what_cannot_be_its_base(
        self, lab: Lab, quick: Path, tmp_path: Path, there: str
    ) -> None:
        if there == "FIFO":
            there = str(tmp_path / "fifo")
            os.mkfifo(there)
        with CapsuleReader(quick) as reader:
            [disk] = json.loads(reader.content("manifest.json", limit=1 << 20))["disks"]
        complaint = (
            rf"{there}.* (is no file|is not the base image of .*: it has \d+ bytes.*); name it with --image=PATH"
        )
        with pytest.raises(ImageError, match=complaint):
            resumed(
                lab, repacked(quick, tmp_path / "it", disks=[disk | {"image": [disk["image"][0] | {"path": there}]}])
            )

    def test_a_state_that_is_none_is_refused(self, lab: Lab, quick: Path, tmp_path: Path) -> None:
        repacked(quick, tmp_path / "it", state=os.urandom(4096))
        with pytest.raises(StartFailed, match=r"QEMU did not accept the state in .*/it: "):
            resumed(lab, tmp_path / "it")


def test_arguments_of_its_own_are_shown_and_must_be_allowed(lab: Lab, start: Start, tmp_path: Path) -> None:
    vm = start(machine="pc,smm=off", qemu_args="-device virtio-balloon-pci")
    save_capsule(vm, tmp_path / "it")
    vm.close()
    with pytest.raises(CapsuleRefused, match=r"-machine pc,smm=off -device virtio-balloon-pci; .* --allow-qemu-args"):
        resumed(lab, tmp_path / "it")
    boots_again_from_its_own_disk(resumed(lab, tmp_path / "it", allow_qemu_args=True))
