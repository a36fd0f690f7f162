"""The script by which a person starts a test's machine by hand."""

from pathlib import Path

from pytest_readonly_vm.evidence.replay import Started, script

FOLDER = Path("/var/tmp/run/1")
ARGV = (
    *("/usr/bin/qemu", "-nodefaults", "-name", "guest=a b", "-machine", "pc,memory-backend=ram"),
    *("-object", "memory-backend-file,mem-path=/proc/self/fd/9,share=off,id=ram,size=1K"),
    *("-chardev", "socket,id=monitor,fd=20", "-mon", "chardev=monitor,mode=control"),
    *("-chardev", "socket,id=console,fd=21", "-serial", "chardev:console"),
    *("-chardev", "socket,id=agent,fd=22", "-device", "virtserialport,chardev=agent,id=agent"),
    *("-add-fd", "fd=7,set=7", "-add-fd", "fd=8,set=8"),
    *("-drive", "if=none,id=disk0,snapshot=on,format=qcow2,file=/dev/fdset/7,backing.file.filename=/dev/fdset/8"),
    *("-device", "virtio-blk-pci,drive=disk0"),
    *("-smbios", f"type=11,path={FOLDER}/smbios"),
    *("-drive", f"if=none,id=seed0,format=raw,readonly=on,file={FOLDER}/seed.iso"),
    *("-device", "virtio-blk-pci,drive=seed0", "-incoming", "defer", "-no-hpet", "-device", "pvpanic"),
)
LAYERS = [(7, Path("/images/top,1.qcow2"), "qcow2"), (8, Path("/images/base.raw"), "raw")]


def commands(text: str) -> list[str]:
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [line.strip().removesuffix(" \\") for line in lines]


def test_a_script_has_files_in_the_place_of_descriptors() -> None:
    text = script(Started(name="a\nb", argv=ARGV, folder=FOLDER, disks={"disk0": LAYERS}, credentials="c,d"))
    assert commands(text) == [
        "exec /usr/bin/qemu",
        "-nodefaults",
        "-name 'guest=a b'",
        "-machine pc",
        "-chardev stdio,id=console,mux=on,signal=off",
        "-mon chardev=console,mode=readline",
        "-serial chardev:console",
        "-chardev null,id=agent",
        "-device virtserialport,chardev=agent,id=agent",
        "-drive if=none,id=disk0,snapshot=on,format=qcow2,file=/images/top,,1.qcow2",
        "-device virtio-blk-pci,drive=disk0",
        "-smbios type=11,value=c,,d",
        "-no-hpet",
        "-device pvpanic",
    ]
    assert "# Boots what the machine a b booted." in text
    assert "# Descriptor 8 was /images/base.raw (raw)." in text
    assert "# Left out: the seed for cloud-init" in text


def test_a_script_says_what_is_not_there_any_more() -> None:
    text = script(Started(name="a", argv=ARGV, folder=FOLDER, disks={"disk0": LAYERS[1:]}, is_copy=True))
    assert "# Descriptor 7 was a file of a frozen guest, left out." in text
    assert "-drive if=none,id=disk0,snapshot=on,format=raw,file=/images/base.raw" in commands(text)
    assert "# Left out: the credentials" in text
    assert "the script boots anew" in text


def test_a_script_has_further_disks() -> None:
    drives = [f"if=none,id=disk-{name},snapshot=on,file=json:{{}}" for name in ("data", "blank")]
    argv = (ARGV[0], *(word for drive in drives for word in ("-drive", drive)))
    started = Started(name="a", argv=argv, folder=FOLDER, disks={"data": LAYERS}, blank={"blank": 1 << 20})
    assert commands(script(started)) == [
        "exec /usr/bin/qemu",
        "-drive if=none,id=disk-data,snapshot=on,format=qcow2,file=/images/top,,1.qcow2",
        "-drive if=none,id=disk-blank,snapshot=on,driver=null-co,read-zeroes=on,size=1048576",
    ]


def test_a_script_has_the_cd() -> None:
    node = '{"node-name":"cdrom0","read-only":true,"driver":"raw","file":{"driver":"file","filename":"/dev/fdset/6"}}'
    cd = ("-add-fd", "fd=6,set=6", "-blockdev", node, "-device", "ide-cd,bus=ide.1,drive=cdrom0")
    text = script(Started(name="a", argv=(ARGV[0], *cd), folder=FOLDER, cdrom=(6, Path("/images/install.iso"))))
    assert "# Descriptor 6 was /images/install.iso (CD)." in text
    assert commands(text) == [
        "exec /usr/bin/qemu",
        '-blockdev \'{"driver": "raw", "node-name": "cdrom0", "read-only": true, "file": {"driver": "file", '
        '"filename": "/images/install.iso"}}\'',
        "-device ide-cd,bus=ide.1,drive=cdrom0",
    ]


def test_a_script_has_the_firmware_that_is_installed() -> None:
    """Also that of a copy, which was given none; what a guest has written to its variables is gone with it."""
    files = [(5, Path("/usr/share/CODE.fd"), "raw"), (6, Path("/usr/share/VARS.qcow2"), "qcow2")]
    booted = ("if=pflash,unit=0,readonly=on,file=json:{}", f"if=pflash,unit=1,format=qcow2,file={FOLDER}/variables")
    copied = ("if=pflash,unit=0,readonly=on,driver=null-co,size=1", "if=pflash,unit=1,driver=null-co,size=1")
    for drives in (booted, copied):
        argv = (*ARGV, *(word for drive in drives for word in ("-drive", drive)))
        text = script(Started(name="a", argv=argv, folder=FOLDER, disks={"disk0": LAYERS}, firmware=files))
        assert [line for line in commands(text) if "pflash" in line] == [
            "-drive if=pflash,unit=0,readonly=on,format=raw,file=/usr/share/CODE.fd",
            "-drive if=pflash,unit=1,snapshot=on,format=qcow2,file=/usr/share/VARS.qcow2",
        ]
