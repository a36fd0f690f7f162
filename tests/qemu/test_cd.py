"""The image of a CD is in the machine's drive, read-only, with a disk or without, and proved untouched as a base is."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_readonly_vm import BaseImageChanged, ConfigurationError, ImageError, Lab, QmpError, VirtualMachine, VmConfig
from pytest_readonly_vm.evidence.capsule.opened import open_capsule
from pytest_readonly_vm.evidence.capsule.resume import resume_capsule
from pytest_readonly_vm.evidence.capsule.save import save_capsule
from tests.accelerator import ACCEL
from tests.guests import bootsector
from tests.guests.cd import write_cd
from tests.guests.grub_cd import write_grub_cd
from tests.guests.tiny_cd import tiny_cd
from tests.qemu.image_tools import run
from tests.qemu.waiting import GENEROUS

FROM_CD = "from the CD"
"""What the guest of the CD prints."""
MACHINES = [("pc", "virtio"), ("pc", "scsi"), ("pc", "ide"), ("q35", "virtio"), ("q35", "sata"), ("q35", "ide")]
"""And how the disk beside the drive is connected."""


@pytest.fixture
def cd(tmp_path: Path) -> Path:
    """A CD that is a bootable disk as well, as distributions have them; it boots something else then."""
    as_disk = bootsector.hello("as a disk\n")
    return write_cd(tmp_path / "install.iso", bootsector.hello(f"{FROM_CD}\n"), as_disk=as_disk)


@pytest.fixture
def blank(tmp_path: Path) -> Path:
    path = tmp_path / "blank.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", path, "8M")
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def drives(machine: VirtualMachine) -> dict[str, bool]:
    """Each drive of the guest by the name of its file's node, and whether it is read-only."""
    found = machine.qmp.execute("query-block")
    return {one["inserted"]["node-name"]: one["inserted"]["ro"] for one in found if one.get("inserted")}


@pytest.mark.parametrize("machine", ["pc", "q35"])
def test_an_image_that_is_a_cd_boots_as_one_without_a_disk(
    boot: Callable[..., VirtualMachine], cd: Path, machine: str
) -> None:
    before = digest(cd)
    for start in ("cold", "clone"):
        guest = boot(cd, ready=f"console:{FROM_CD}", machine=machine, start=start)
        assert "as a disk" not in guest.console.text
        assert drives(guest) == {"cdrom0": True}
        guest.close()
    assert digest(cd) == before


def test_an_image_of_both_kinds_is_a_disk_if_it_is_said_to_be_raw(
    boot: Callable[..., VirtualMachine], cd: Path
) -> None:
    assert FROM_CD not in boot(cd, ready="console:as a disk", format="raw").console.text


@pytest.mark.parametrize(("machine", "disk_interface"), MACHINES)
def test_the_disk_boots_before_the_cd_beside_it(
    boot: Callable[..., VirtualMachine], boot_sector: Callable[[str], Path], cd: Path, machine: str, disk_interface: str
) -> None:
    disk = boot_sector("writer")
    guest = boot(disk, cdrom=cd, machine=machine, disk_interface=disk_interface, ready="console:^written", start="cold")
    assert drives(guest)["cdrom0"] is True
    assert len(drives(guest)) == 2
    assert FROM_CD not in guest.console.text


@pytest.mark.parametrize(("machine", "disk_interface"), MACHINES)
def test_a_cd_boots_where_the_disk_is_blank(
    boot: Callable[..., VirtualMachine], cd: Path, blank: Path, machine: str, disk_interface: str
) -> None:
    settings = {"machine": machine, "disk_interface": disk_interface}
    guest = boot(blank, cdrom=cd, ready=f"console:{FROM_CD}", start="cold", **settings)
    assert len(drives(guest)) == 2


def test_a_cd_boots_beside_a_seed_for_cloud_init(boot: Callable[..., VirtualMachine], cd: Path, blank: Path) -> None:
    for disk_interface in ("virtio", "ide"):
        settings = {"disk_interface": disk_interface, "provision": "cloud-init"}
        boot(blank, cdrom=cd, ready=f"console:{FROM_CD}", start="cold", **settings)


def test_machines_with_a_cd_are_cloned_reset_and_branched(
    boot: Callable[..., VirtualMachine], cd: Path, blank: Path
) -> None:
    before = digest(cd), digest(blank)
    for snapshot in ("temporary", "overlay"):
        guest = boot(blank, cdrom=cd, ready=f"console:{FROM_CD}", start="clone", snapshot=snapshot)
        assert guest.manner == "clone"
        guest.reset()
        guest.restore(guest.checkpoint())
        with guest.fork(1) as [branch]:
            assert drives(branch)["cdrom0"] is True
        guest.close()
    assert (digest(cd), digest(blank)) == before


def test_no_command_writes_a_cd(boot: Callable[..., VirtualMachine], cd: Path) -> None:
    before = digest(cd)
    guest = boot(cd, ready=f"console:{FROM_CD}", start="cold", seal="off")
    for command in ("qemu-io cdrom0 'write 0 512'", "commit all", "drive_backup -n cdrom0 /dev/null"):
        guest.qmp.execute("human-monitor-command", {"command-line": command})
    options = {"driver": "raw", "node-name": "cdrom0", "read-only": False, "file": "#block000"}
    with pytest.raises(QmpError):
        guest.qmp.execute("blockdev-reopen", {"options": [options]})
    assert digest(cd) == before


def test_a_cd_that_is_written_is_found_out(small: Callable[..., VmConfig], cd: Path, blank: Path) -> None:
    with Lab() as lab:
        lab.start(small(blank, cdrom=cd, ready=f"console:{FROM_CD}", start="cold"), name="guest").close()
        assert set(lab.check_bases(during="a test")) == {cd, blank}
        with cd.open("r+b") as file:
            file.write(b"x")
        with pytest.raises(BaseImageChanged, match=r"install\.iso was written while a test ran"):
            lab.check_bases(during="a test")


def test_nothing_is_written_over_a_cd(small: Callable[..., VmConfig], cd: Path, blank: Path, tmp_path: Path) -> None:
    (tmp_path / "link").hardlink_to(cd)
    for config in (small(blank, cdrom=cd), small(cd)):
        with Lab() as lab:
            lab.spec(config, "guest")
            assert lab.output_guard.why_not(tmp_path / "link") is not None


def test_a_replaced_cd_makes_another_template(small: Callable[..., VmConfig], cd: Path) -> None:
    for words in (FROM_CD, "from another CD"):
        cd.unlink(missing_ok=True)
        write_cd(cd, bootsector.hello(f"{words}\n"))
        with Lab() as lab:
            config = small(cd, ready=f"console:{words}", start="clone", no_cache=False, cache=cd.parent / "cache")
            guest = lab.start(config, name="guest")
            assert words in guest.console.text


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"image": "disk", "cdrom": "disk"}, r"^CD .*blank\.qcow2 \(from .*\) is not the image of a CD or DVD; "),
        ({"image": "cd", "cdrom": "cd"}, r"^replace\(cdrom=…\): cdrom: the image .* is a CD as well"),
        ({"image": "disk", "cdrom": "missing"}, r"^replace\(cdrom=…\): cdrom: .*missing: No such file"),
        ({"image": "cd", "keep": "always", "snapshot": "overlay"}, r"needs a disk, and the image .* is a CD"),
        ({"image": "disk", "cdrom": "short"}, r"^CD .*short \(from .*\) is truncated: it has 40960 bytes and its "),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(
    boot: Callable[..., VirtualMachine], cd: Path, blank: Path, settings: dict[str, str], words: str
) -> None:
    (cd.parent / "short").write_bytes(cd.read_bytes()[:40960])
    paths = {"cd": cd, "disk": blank}
    given: dict[str, object] = {name: paths.get(value, value) for name, value in settings.items()}
    given |= {name: cd.parent / value for name, value in settings.items() if value in ("missing", "short")}
    with pytest.raises((ImageError, ConfigurationError), match=words):
        boot(**given)


def test_a_capsule_goes_on_with_its_cd_and_no_other(
    boot: Callable[..., VirtualMachine], cd: Path, blank: Path, tmp_path: Path
) -> None:
    write_cd(cd, bootsector.echo(f"{FROM_CD}\n"))
    for disk in (cd, blank):
        settings = {} if disk is cd else {"cdrom": cd}
        guest = boot(disk, ready=f"console:{FROM_CD}", start="cold", channel="none", **settings)
        save_capsule(guest, tmp_path / "saved")
        with Lab() as lab, open_capsule(tmp_path / "saved") as capsule:
            resumed = resume_capsule(lab, capsule)
            resumed.console.send("as it was")
            resumed.console.expect("as it was", timeout=GENEROUS)
            assert drives(resumed)["cdrom0"] is True
    elsewhere = cd.rename(tmp_path / "elsewhere.iso")
    with Lab() as lab, open_capsule(tmp_path / "saved") as capsule:
        with pytest.raises(ImageError, match=r"install\.iso of .*saved is not there .*; name it with --cdrom=PATH"):
            resume_capsule(lab, capsule)
        assert resume_capsule(lab, capsule, cdrom=elsewhere).instance.spec.cd is not None
    with Lab() as lab, open_capsule(tmp_path / "saved") as capsule:
        write_cd(elsewhere, bootsector.hello("another\n"))
        with pytest.raises(ImageError, match=r"elsewhere\.iso is not the CD of .*saved: its SHA-256 is "):
            resume_capsule(lab, capsule, cdrom=elsewhere)


@pytest.mark.parametrize("beside_a_disk", [False, True])
def test_a_cd_for_uefi_alone_is_booted_by_it(
    boot: Callable[..., VirtualMachine], blank: Path, tmp_path: Path, beside_a_disk: bool
) -> None:
    cd = write_grub_cd(tmp_path, FROM_CD, platform="x86_64-efi")
    image = {"image": blank, "cdrom": cd} if beside_a_disk else {"image": cd}
    guest = boot(**image, ready=f"console:{FROM_CD}", memory="128M", start="cold")
    assert guest.instance.spec.firmware.describe() == "uefi, as the CD boots by nothing else"


def test_a_linux_on_a_cd_runs_commands_and_is_cloned() -> None:
    """Its image boots as a disk as well, as those of distributions do; it has been told nothing of the plugin."""
    iso = tiny_cd()
    before = digest(iso)
    config = VmConfig().replace(image=iso, memory="256M", accel=ACCEL, start="clone", no_cache=True, verify="hash")
    with Lab() as lab:
        guest = lab.start(config, name="guest")
        guest.run("mount -r -t iso9660 /dev/sr0 /mnt")
        assert guest.run("cat /mnt/boot/grub/grub.cfg").stdout.startswith("serial ")
        assert "Read-only" in guest.run("dd if=/dev/zero of=/dev/sr0 count=1", check=False).stderr
        with guest.fork(1) as [branch]:
            assert "grub" in branch.run("ls /mnt/boot").stdout
        guest.reset()
        assert guest.run("ls /mnt").stdout == ""
        assert lab.start(config, name="second").manner == "clone"
        assert lab.check_bases(during="it") == (iso,)
        assert lab.compare_digests() == {iso: ""}
    assert digest(iso) == before
