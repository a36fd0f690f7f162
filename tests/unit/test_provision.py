"""What an unprepared image is told so that it opens a channel: pure, but for two files in the machine's folder."""

import base64
import re
import shlex
import stat
import struct
import subprocess
from pathlib import Path

import pytest

from pytest_readonly_vm import VmConfig
from pytest_readonly_vm.errors import ConfigurationError
from pytest_readonly_vm.qemu.provision import BOOTSTRAP, Provision, boothook, credential, provision, tmpfiles
from pytest_readonly_vm.qemu.provision import with_shell as shell_on
from pytest_readonly_vm.qemu.seed import iso9660, seed

KEY = "ssh-ed25519 AAAAC3Nz run@host"


def provided(config: VmConfig, folder: Path, *, arch: str = "x86_64", key: str | None = KEY) -> Provision:
    given = provision(config, key=key, folder=folder, arch=arch, bus="pci")
    given.write_files()
    return given


@pytest.mark.parametrize("shell", ["dash", "bash --posix", "busybox sh"])
def test_the_line_for_the_guest_is_shell_text(shell: str) -> None:
    try:
        done = subprocess.run([*shell.split(), "-n"], input=BOOTSTRAP.encode(), capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip(f"{shell} is not here")
    assert (done.returncode, done.stderr) == (0, b"")
    assert "\n" not in BOOTSTRAP


# The kernel command line.


def arguments_of(line: str) -> list[str]:
    """What the kernel gives init: it splits at white space and knows double quotes, which it has no escape for."""
    after = line.partition(" -- ")[2]
    return [word.replace('"', "") for word in re.findall(r'(?:[^\s"]|"[^"]*")+', after)]


def test_without_an_initrd_the_shell_comes_before_the_root_file_systems_init() -> None:
    line = shell_on("console=ttyS0 root=/dev/vda", has_initrd=False)
    assert line.startswith("console=ttyS0 root=/dev/vda init=/bin/sh -- ")
    dash_c, script = arguments_of(line)
    assert dash_c == "-c"
    assert script.endswith("done;exec /bin/sh")
    assert "/sbin/init" in script


def test_with_nothing_but_an_initrd_it_comes_before_that_ones_init() -> None:
    line = shell_on("console=ttyS0", has_initrd=True)
    assert "rdinit=/bin/sh -- " in line
    assert arguments_of(line)[1].endswith("&exec /init")


@pytest.mark.parametrize("append", ["root=/dev/vda", "boot=live", "init=/nix/init"])
def test_with_an_initrd_that_mounts_another_root_it_is_handed_over(append: str) -> None:
    line = shell_on(append, has_initrd=True)
    assert "rdinit=/bin/sh init=/bin/sh init_args=/dev/.readonly-vm -- " in line
    assert arguments_of(line)[1].endswith("exec /init /dev/.readonly-vm")
    laid = shlex.split(arguments_of(line)[1].partition("echo ")[2].replace("'>", "' >"))[0]
    assert "busybox sleep" in laid
    assert "exec " in laid


@pytest.mark.parametrize("has_initrd", [False, True])
def test_the_guests_own_init_and_its_arguments_are_kept(has_initrd: bool) -> None:
    line = shell_on("root=/dev/vda init=/sbin/mine rw -- --unit=rescue 3", has_initrd=has_initrd)
    assert line.startswith("root=/dev/vda rw ")
    assert "init=/sbin/mine" not in line
    assert "exec /sbin/mine --unit=rescue 3" in arguments_of(line)[1]


def test_an_own_rdinit_is_kept() -> None:
    assert arguments_of(shell_on("rdinit=/start quiet", has_initrd=True))[1].endswith("&exec /start")


def test_no_command_line_at_all_is_one_as_well() -> None:
    assert shell_on(None, has_initrd=False).startswith("init=/bin/sh -- -c ")


@pytest.mark.parametrize(("append", "has_initrd"), [("root=/dev/vda", False), ("root=/dev/vda", True), ("", True)])
def test_no_word_of_it_means_something_to_an_initramfs_that_splits_it(append: str, has_initrd: bool) -> None:
    words = shell_on(append, has_initrd=has_initrd).split()
    assert not {"1", "s", "S", "single", "ro", "rw", "quiet", "debug", "break", "-b", "emergency"} & set(words)
    assert len([word for word in words if word.startswith("init=")]) <= 1


def test_a_command_line_that_linux_would_cut_is_left_as_it_is_or_refused(tmp_path: Path) -> None:
    config = VmConfig(kernel=Path("k"), append="x" * 1800)
    assert provided(config, tmp_path).append == "x" * 1800
    assert (tmp_path / "smbios").read_text() == credential("tmpfiles.extra", tmpfiles(key=KEY, shell=True))
    with pytest.raises(ConfigurationError, match=r"append is \d+ bytes too long"):
        provided(config.replace(provision="kernel"), tmp_path)


# systemd.


def test_the_unit_reaches_systemd_as_it_is_meant() -> None:
    lines = tmpfiles(key=None, shell=True).splitlines()
    unit = next(base64.b64decode(line.split()[-1]).decode() for line in lines if "readonly-vm-shell.service" in line)
    command = next(line for line in unit.splitlines() if line.startswith("ExecStart="))
    assert f"({shlex.split(command.replace('$$', '$'))[2]})" in BOOTSTRAP


def test_a_key_without_a_shell_and_a_shell_without_a_key() -> None:
    assert "authorized_keys" not in tmpfiles(key=None, shell=True)
    assert "/dev/" not in tmpfiles(key=KEY, shell=False)
    assert base64.b64decode(tmpfiles(key=KEY, shell=False).split()[-1]).decode() == f"\n{KEY}\n"


def test_credentials_come_in_a_file_of_this_users_alone(tmp_path: Path) -> None:
    folder = tmp_path / "a,b"
    folder.mkdir()
    done = provided(VmConfig(image=Path("i")), folder)
    assert (done.name, done.append) == ("systemd", None)
    assert done.qemu_args == ("-smbios", f"type=11,path={tmp_path}/a,,b/smbios")
    file = folder / "smbios"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_text() == credential("tmpfiles.extra", tmpfiles(key=KEY, shell=True))


# cloud-init.


def test_a_seed_has_the_users_data_as_it_is_and_shows_none_of_it(tmp_path: Path) -> None:
    (tmp_path / "user").write_bytes(b"#!/bin/sh\necho \xff secret\n")
    config = VmConfig(image=Path("i"), user_data=tmp_path / "user", provision="cloud-init")
    done = provided(config, tmp_path)
    file = tmp_path / "seed.iso"
    assert done.qemu_args == (
        "-drive", f"if=none,id=seed0,format=raw,readonly=on,file={file}",
        "-device", "virtio-blk-pci,drive=seed0",
    )  # fmt: skip
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    files = files_of(file.read_bytes())
    assert files["USER-DATA.;1"] == b"#!/bin/sh\necho \xff secret\n"
    assert files["VENDOR-DATA.;1"].decode() == boothook(key=KEY, shell=True)
    assert "secret" not in repr(done)


def test_another_key_image_or_user_data_is_another_instance() -> None:
    seeds = [seed(b"u", vendor_data="v", salt="s"), seed(b"u", vendor_data="v", salt="s")]
    assert seeds[0] == seeds[1]
    others = [seed(b"x", vendor_data="v", salt="s"), seed(b"u", vendor_data="x", salt="s")]
    others.append(seed(b"u", vendor_data="v", salt="x"))
    assert len({files_of(image)["META-DATA.;1"] for image in (seeds[0], *others)}) == 4


@pytest.mark.parametrize("size", [0, 1, 2047, 2048, 2049, 100_000])
def test_files_of_all_sizes_are_where_the_volume_says(size: int) -> None:
    files = {"first": b"1" * size, "second-file": b"2" * size}
    image = iso9660(files, label="cidata")
    assert files_of(image) == {"FIRST.;1": files["first"], "SECOND-FILE.;1": files["second-file"]}
    assert struct.unpack_from("<I", image, 16 * 2048 + 80)[0] * 2048 == len(image)


def files_of(image: bytes) -> dict[str, bytes]:
    """Read an ISO 9660 volume the way its standard says: descriptor, root directory, extents."""
    assert image[16 * 2048 :][:7] == b"\1CD001\1"
    assert image[16 * 2048 + 40 :][:32].rstrip() == b"cidata"
    root, size = struct.unpack_from("<I4xI", image, 16 * 2048 + 156 + 2)
    files, at = {}, root * 2048
    while at < root * 2048 + size and (length := image[at]):
        start, length_of_file = struct.unpack_from("<I4xI", image, at + 2)
        name = image[at + 33 : at + 33 + image[at + 32]].decode()
        files[name] = image[start * 2048 : start * 2048 + length_of_file]
        at += length
    return {name: content for name, content in files.items() if name not in ("\0", "\1")}


# The choice.


@pytest.mark.parametrize(
    ("config", "arch", "name"),
    [
        (VmConfig(image=Path("i")), "x86_64", "systemd"),
        (VmConfig(image=Path("i")), "riscv64", "none"),
        (VmConfig(kernel=Path("k")), "x86_64", "kernel, systemd"),
        (VmConfig(kernel=Path("k")), "riscv64", "kernel"),
        (VmConfig(image=Path("i"), provision="cloud-init"), "s390x", "cloud-init"),
        (VmConfig(kernel=Path("k"), provision="none"), "x86_64", "none"),
    ],
)
def test_auto_takes_every_way_that_fits(config: VmConfig, arch: str, name: str, tmp_path: Path) -> None:
    assert provided(config, tmp_path, arch=arch).name == name


def test_a_channel_that_needs_no_shell_gets_none(tmp_path: Path) -> None:
    done = provided(VmConfig(kernel=Path("k"), append="quiet", channel="ssh"), tmp_path)
    assert done.append == "quiet"
    assert "virtio-ports" not in (tmp_path / "smbios").read_text()


def test_one_way_starts_the_shell_and_no_second(tmp_path: Path) -> None:
    (tmp_path / "user").write_bytes(b"#cloud-config\n")
    done = provided(VmConfig(kernel=Path("k"), user_data=tmp_path / "user"), tmp_path)
    assert done.name == "kernel, systemd, cloud-init"
    assert (tmp_path / "smbios").read_text() == credential("tmpfiles.extra", tmpfiles(key=KEY, shell=False))
    assert files_of((tmp_path / "seed.iso").read_bytes())["VENDOR-DATA.;1"].decode() == boothook(key=KEY, shell=False)


@pytest.mark.parametrize(
    ("settings", "arch", "complaint"),
    [
        ({"provision": "kernel"}, "x86_64", "provision=kernel needs kernel"),
        ({"provision": "systemd"}, "riscv64", "needs SMBIOS tables, which riscv64 machines do not have"),
        ({"provision": "none", "user_data": "u"}, "x86_64", "leaves no use for user_data"),
        ({"user_data": "/nowhere/u"}, "x86_64", "user_data: /nowhere/u: No such file"),
    ],
)
def test_what_cannot_be_is_refused_with_its_origin(
    settings: dict[str, object], arch: str, complaint: str, tmp_path: Path
) -> None:
    config = VmConfig().replace(image=Path("i"), **settings)
    with pytest.raises(ConfigurationError, match=rf"^replace\((provision|user_data)=…\): .*{complaint}"):
        provided(config, tmp_path, arch=arch)
