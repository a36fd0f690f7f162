"""What a configuration becomes on QEMU's command line: pure, so whole lines are compared."""

import dataclasses
from pathlib import Path

import pytest

from pytest_readonly_vm import VmConfig
from pytest_readonly_vm.host.qemu_features import Features
from pytest_readonly_vm.qemu.card import Card, CardWire
from pytest_readonly_vm.qemu.chain import DiskImage
from pytest_readonly_vm.qemu.command_line import PortWire, Wiring, command_line
from pytest_readonly_vm.qemu.drive import DriveWire
from pytest_readonly_vm.qemu.flash import FlashWire

SPARE_PORTS = " -device ".join(f"pcie-root-port,id=spare{number},chassis={number}" for number in range(1, 5))
DRIVE = DriveWire("disk0", (DiskImage(9, "qcow2"),))
ONE_LAYER = Wiring(monitor=5, console=6, drives=(DRIVE,))


def line(
    config: VmConfig,
    wiring: Wiring = ONE_LAYER,
    arch: str = "x86_64",
    name: str = "test_x",
    *,
    accelerator: str = "tcg",
    features: Features | None = None,
) -> list[str]:
    drives = tuple(dataclasses.replace(drive, interface=config.disk_interface) for drive in wiring.drives)
    return list(
        command_line(
            config,
            qemu=Path("/usr/bin/qemu"),
            arch=arch,
            accelerator=accelerator,
            features=features or Features(),
            name=name,
            wiring=dataclasses.replace(wiring, drives=drives),
        )
    )


QCOW2 = '{"driver":"qcow2","file":{"driver":"file","filename":"/dev/fdset/9"},"backing":null}'


def _escaped_json(node: str) -> str:
    return f"json:{node}".replace(",", ",,")


def test_the_whole_line_of_an_ordinary_machine() -> None:
    assert line(VmConfig(image=Path("base.qcow2"))) == [
        "/usr/bin/qemu",
        "-nodefaults",
        "-no-user-config",
        "-display", "none",
        "-vnc", "none",
        "-name", "guest=test_x",
        "-machine", "pc",
        "-accel", "tcg,tb-size=256",
        "-cpu", "max,-erms,-fsrm",
        "-smp", "1",
        "-m", "size=1048576K",
        "-action", "reboot=shutdown,panic=pause",
        "-chardev", "socket,id=monitor,fd=5",
        "-mon", "chardev=monitor,mode=control",
        "-chardev", "socket,id=console,fd=6",
        "-serial", "chardev:console",
        "-add-fd", "fd=9,set=9",
        "-drive", f"if=none,id=disk0,snapshot=on,file={_escaped_json(QCOW2)}",
        "-device", "virtio-blk-pci,drive=disk0,id=disk0-device,serial=disk0,rerror=enospc",
        "-netdev", "user,id=net0",
        "-device", "virtio-net-pci,netdev=net0,guest_announce=off,romfile=",
        "-device", "virtio-rng-pci",
        "-vga", "std",
        "-device", "vmgenid,guid=auto",
        "-device", "pvpanic",
    ]  # fmt: skip


def test_the_base_is_never_named() -> None:
    for snapshot in ("temporary", "overlay"):
        config = VmConfig(image=Path("/images/base.qcow2"), snapshot=snapshot)
        overlay = Path("/run/overlay.qcow2") if snapshot == "overlay" else None
        wiring = Wiring(monitor=5, console=6, drives=(dataclasses.replace(DRIVE, overlay=overlay),))
        assert not [argument for argument in line(config, wiring) if "base.qcow2" in argument]


def test_every_layer_of_a_chain_comes_as_a_descriptor_with_its_format() -> None:
    layers = (DiskImage(9, "qcow2"), DiskImage(11, "vmdk"), DiskImage(12, "raw"))
    drive = next(
        word for word in line(VmConfig(), Wiring(5, 6, (DriveWire("disk0", layers),))) if word.startswith("if=none")
    )
    raw = '{"driver":"raw","file":{"driver":"file","filename":"/dev/fdset/12"}}'
    vmdk = f'{{"driver":"vmdk","file":{{"driver":"file","filename":"/dev/fdset/11"}},"backing":{raw}}}'
    chain = f'{{"driver":"qcow2","file":{{"driver":"file","filename":"/dev/fdset/9"}},"backing":{vmdk}}}'
    assert drive == f"if=none,id=disk0,snapshot=on,file={_escaped_json(chain)}"


def test_a_direct_boot_gets_the_command_line_that_provisioning_made() -> None:
    config = VmConfig(kernel=Path("k"), initrd=Path("i"), append="a b")
    words = line(config, Wiring(5, 6, append="a b init=/bin/sh", provision=("-smbios", "type=11,path=/x")))
    assert "-kernel k -initrd i -append a b init=/bin/sh -smbios type=11,path=/x" in " ".join(words)


def test_ports_are_numbered_and_named() -> None:
    ports = (PortWire("agent", "org.qemu.guest_agent.0", 7), PortWire("shell", "a.shell", 8))
    assert (
        "-device virtio-serial-pci,id=serial0 "
        "-chardev socket,id=agent,fd=7 "
        "-device virtserialport,bus=serial0.0,nr=1,chardev=agent,id=agent,name=org.qemu.guest_agent.0 "
        "-chardev socket,id=shell,fd=8 "
        "-device virtserialport,bus=serial0.0,nr=2,chardev=shell,id=shell,name=a.shell"
    ) in " ".join(line(VmConfig(), Wiring(5, 6, ports=ports)))


def test_an_overlay_is_written_in_the_place_of_a_temporary_snapshot() -> None:
    wiring = Wiring(5, 6, (dataclasses.replace(DRIVE, overlay=Path("/run/a,b/overlay.qcow2")),))
    drive = next(word for word in line(VmConfig(snapshot="overlay"), wiring) if word.startswith("if=none"))
    assert drive == ("if=none,id=disk0,cache=unsafe,format=qcow2,file=/run/a,,b/overlay.qcow2,backing=disk0-below")


@pytest.mark.parametrize(
    ("config", "arch", "words"),
    [
        (VmConfig(machine="q35,smm=on"), "x86_64", ["-machine q35,smm=on", "-vga std"]),
        (VmConfig(machine="microvm"), "x86_64", ["virtio-blk-device,drive=disk0", "virtio-net-device,netdev=net0"]),
        (VmConfig(), "aarch64", ["-machine virt", "-cpu max"]),
        (VmConfig(), "riscv64", ["-machine virt"]),
        (VmConfig(), "s390x", ["virtio-blk-ccw,drive=disk0", "virtio-rng-ccw"]),
        (VmConfig(machine="q35"), "x86_64", [f"-device {SPARE_PORTS}"]),
        (VmConfig(machine="pc-q35-7.2"), "x86_64", [f"-device {SPARE_PORTS}"]),
        (VmConfig(), "aarch64", [f"-device {SPARE_PORTS}"]),
        (VmConfig(), "riscv64", ["-device pcie-root-port,id=spare4,chassis=4,power_controller_present=off"]),
        (VmConfig(network="none"), "x86_64", ["-nic none"]),
        (VmConfig(disk_interface="nvme"), "x86_64", ["-device nvme,drive=disk0"]),
        (
            VmConfig(disk_interface="scsi"),
            "x86_64",
            ["-device virtio-scsi-pci,id=scsi0 -device scsi-hd,bus=scsi0.0,drive=disk0"],
        ),
        (VmConfig(cpu_model="qemu64", cpus=4), "x86_64", ["-cpu qemu64", "-smp 4"]),
        (VmConfig(qemu_args=("-device", "x")), "x86_64", ["-device vmgenid,guid=auto -device pvpanic -device x"]),
    ],
)
def test_settings_show_in_the_line(config: VmConfig, arch: str, words: list[str]) -> None:
    whole = " ".join(line(config, arch=arch))
    for word in words:
        assert word in whole


def test_a_machine_without_vga_gets_none() -> None:
    for machine, arch in (("microvm", "x86_64"), (None, "aarch64")):
        assert "-vga" not in line(VmConfig(machine=machine), arch=arch)


@pytest.mark.parametrize(
    ("machine", "arch"), [(None, "x86_64"), ("microvm", "x86_64"), (None, "s390x"), (None, "ppc64")]
)
def test_a_machine_into_which_cards_can_be_plugged_anyhow_or_not_at_all_gets_no_ports(
    machine: str | None, arch: str
) -> None:
    assert "root-port" not in " ".join(line(VmConfig(machine=machine), arch=arch))


def test_cards_have_lines_and_places_of_their_own_or_lead_nowhere() -> None:
    cards = (
        CardWire(Card(number=1, mac="52:54:00:00:00:0a", mtu=9000), 7),
        CardWire(Card(number=2, mac="52:54:00:01:00:0a", place=("pci.0", "05.0"), boots=True), None),
    )
    whole = " ".join(line(VmConfig(), Wiring(5, 6, cards=cards)))
    assert (
        "-netdev socket,fd=7,id=lan1 -device virtio-net-pci,"
        "netdev=lan1,id=card1,mac=52:54:00:00:00:0a,guest_announce=off,host_mtu=9000,romfile= "
        "-netdev hubport,hubid=2,id=lan2 -device virtio-net-pci,"
        "netdev=lan2,id=card2,mac=52:54:00:01:00:0a,guest_announce=off,bootindex=12,bus=pci.0,addr=05.0"
    ) in whole
    s390x = Card(number=1, mac="52:54:00:00:00:0a", place=("virtual-css-bus", "fe.0.0007"))
    assert "bus=virtual-css-bus,devno=fe.0.0007" in " ".join(
        line(VmConfig(), Wiring(5, 6, cards=(CardWire(s390x, None),)), arch="s390x")
    )


def test_a_name_cannot_smuggle_in_options() -> None:
    assert "guest=test_x[a,,debug-threads=on]" in line(VmConfig(), name="test_x[a,debug-threads=on]")


def test_the_seal_and_the_human_monitor_add_their_arguments() -> None:
    sealed = Wiring(5, 6, ONE_LAYER.drives, human_monitor=Path("/run/monitor"), sandboxed=True)
    whole = " ".join(line(VmConfig(), sealed))
    assert "-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny" in whole
    assert "socket,id=human,path=/run/monitor,server=on,wait=off -mon chardev=human,mode=control" in whole


CD = Wiring(monitor=5, console=6, cdrom=DiskImage(7, "raw"))
CD_NODE = '{"node-name":"cdrom0","read-only":true,"driver":"raw","file":{"driver":"file","filename":"/dev/fdset/7"}}'


@pytest.mark.parametrize(
    ("machine", "arch", "devices"),
    [
        (None, "x86_64", ["ide-cd,bus=ide.1,drive=cdrom0,bootindex=2"]),
        ("pc-i440fx-7.2,hpet=off", "x86_64", ["ide-cd,bus=ide.1,drive=cdrom0,bootindex=2"]),
        ("q35", "x86_64", ["ide-cd,bus=ide.2,drive=cdrom0,bootindex=2"]),
        ("pc-q35-7.2", "x86_64", ["ide-cd,bus=ide.2,drive=cdrom0,bootindex=2"]),
        ("microvm", "x86_64", ["virtio-scsi-device,id=cdrom-bus", "scsi-cd,bus=cdrom-bus.0,drive=cdrom0,bootindex=2"]),
        (None, "aarch64", ["virtio-scsi-pci,id=cdrom-bus", "scsi-cd,bus=cdrom-bus.0,drive=cdrom0,bootindex=2"]),
        (None, "s390x", ["virtio-scsi-ccw,id=cdrom-bus", "scsi-cd,bus=cdrom-bus.0,drive=cdrom0,bootindex=2"]),
    ],
)
def test_a_cd_is_in_a_drive_that_the_machine_has(machine: str | None, arch: str, devices: list[str]) -> None:
    found = line(VmConfig(machine=machine), CD, arch)
    start = found.index("-add-fd")
    expected = ["-add-fd", "fd=7,set=7", "-blockdev", CD_NODE]
    expected += [word for device in devices for word in ("-device", device)]
    assert found[start : start + len(expected)] == expected


def test_the_disk_comes_before_a_cd_beside_it() -> None:
    both = dataclasses.replace(CD, drives=ONE_LAYER.drives)
    for disk_interface in ("virtio", "scsi", "sata", "ide", "nvme", "usb"):
        config = VmConfig(image=Path("base.qcow2"), disk_interface=disk_interface)
        assert [word for word in line(config, both) if "bootindex=1" in word and "drive=disk0" in word]
        assert not [word for word in line(config) if "bootindex" in word]


def test_the_code_of_a_firmware_is_read_only_and_its_variables_are_the_machines_own() -> None:
    code = FlashWire(size=1024, writable=False, code=DiskImage(7, "raw"))
    variables = FlashWire(size=512, writable=True, variables=Path("/run/a,b/variables"), format="qcow2")
    words = line(VmConfig(), Wiring(5, 6, ONE_LAYER.drives, flash=(code, variables)))
    raw = '{"driver":"raw","file":{"driver":"file","filename":"/dev/fdset/7"}}'
    drives = [word for word in words if "if=pflash" in word]
    assert drives == [
        f"if=pflash,unit=0,readonly=on,file={_escaped_json(raw)}",
        "if=pflash,unit=1,cache=unsafe,format=qcow2,file=/run/a,,b/variables",
    ]
    assert "fd=7,set=7" in words
    assert "virtio-blk-pci,drive=disk0,id=disk0-device,serial=disk0,rerror=enospc,bootindex=1" in words


def test_flash_is_blank_until_a_state_fills_it() -> None:
    flash = (FlashWire(size=1024, writable=False), FlashWire(size=512, writable=True))
    drives = [word for word in line(VmConfig(), Wiring(5, 6, flash=flash)) if "if=pflash" in word]
    assert drives == [
        "if=pflash,unit=0,readonly=on,driver=null-co,read-zeroes=off,size=1024",
        "if=pflash,unit=1,driver=null-co,read-zeroes=off,size=512",
    ]


def test_secure_boot_is_on_a_machine_that_can_keep_its_keys() -> None:
    words = line(VmConfig(firmware="uefi-secure"), Wiring(5, 6, has_smm=True))
    assert "q35,smm=on" in words
    assert "driver=cfi.pflash01,property=secure,value=on" in words
    assert "virt" in line(VmConfig(firmware="uefi-secure"), Wiring(5, 6), arch="aarch64")
    assert "-bios /proc/self/fd/9" in " ".join(line(VmConfig(), Wiring(5, 6, rom=9)))
