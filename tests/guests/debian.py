"""Owns the recipe of a user's image: the host's own release of Debian (or Ubuntu) on a disk that boots.

The guest has a bootloader (GRUB for the BIOS), systemd, login prompts on tty1 and on ttyS0 at 115200 baud,
DHCP on every ethernet interface, sshd, the QEMU guest agent, and cloud-init, which does nothing unless it
finds a seed. The host name is ``debian``, root's password ``readonly``.
"""

from __future__ import annotations

import logging
import os
import shlex
import tempfile
import time
from pathlib import Path

from tests.guests import archive, cache, debian_files, disk, ext4, tools

PASSWORD = "readonly"
"""The password of root."""

_TIME = 1_700_000_000  # 2023-11-14, the date of what the build itself makes
_SIZE = 2 << 30
_UUID = "8f1b0a4e-5d1c-4c59-9a3e-646562690001"
_DISK_SIGNATURE = 0x64656269
# crypt(5), SHA-256 with few rounds, so that a login costs an emulated processor little.
_PASSWORD_HASH = "$5$rounds=1000$readonlyvm$eRbyoYq2Hrq4W8qbKCYBe7iDZzbFV8vli3gY/ug3HWD"
_GRUB = Path("/usr/lib/grub/i386-pc")
_GRUB_MODULES = ("biosdisk", "part_msdos", "ext2", "search_fs_uuid", "serial", "normal", "linux16", "reboot")
_PACKAGES = (
    "cloud-init",
    "dbus",
    "e2fsprogs",
    "initramfs-tools",
    "iproute2",
    "openssh-server",
    "procps",
    "python3",
    "qemu-guest-agent",
    "sudo",
    "systemd",
    "systemd-sysv",
    "udev",
    "?exact-name(systemd-resolved)",  # a package of its own since Debian 12 and Ubuntu 24.04
)
_LEFT_OUT = ("/usr/share/doc/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/man/*")

# Both scripts run inside mmdebstrap, as root or as the root of a user namespace; $1 is the guest's tree.
_FINISH = """\
set -eu
cd "$1"
chroot . systemctl --quiet enable systemd-networkd
echo {password} | chroot . chpasswd --encrypted
(cd boot && ln -s vmlinuz-* vmlinuz && ln -s initrd.img-* initrd.img)
ln -sf ../run/systemd/resolve/stub-resolv.conf etc/resolv.conf
: > etc/machine-id
rm -f etc/apt/apt.conf.d/99mmdebstrap etc/*- etc/.resolv.conf.* etc/ssh/ssh_host_*_key*
rm -f var/lib/dbus/machine-id var/lib/systemd/random-seed var/lib/dpkg/*-old
rm -rf var/lib/apt/lists/* var/cache/apt/* var/cache/debconf/*-old var/cache/ldconfig/*
find {left_out} -mindepth 1 -delete
find var/log -type f -delete
# In a reproducible build Python's cached code holds a hash of its source, and each import reads and hashes the
# source again: seconds of cloud-init. Have the usual cache, which compares the time.
chroot . env --unset=SOURCE_DATE_EPOCH python3 -m compileall -qq -f -j 0 --invalidation-mode timestamp \
    /usr/lib/python3 /usr/lib/python3.* || :
"""

_MAKE_DISK = """\
set -eu
root=$1 raw=$1.raw aside=$1.aside
# mke2fs copies whatever it finds: take off what mmdebstrap has mounted in the tree, and put aside what is of
# use only now. It must come back: in tmp is what keeps mmdebstrap's apt-get off the host's own package lists.
awk -v root="$root/" 'index($5, root) == 1 {{ print $5 }}' /proc/self/mountinfo | tac | xargs -r umount --lazy
restore() {{
    for name in dev run tmp; do rmdir "$root/$name" && mv "$aside/$name" "$root"; done
    rm -rf "$raw" "$aside"
}}
trap restore EXIT
mkdir "$aside"
for name in dev run tmp; do mv "$root/$name" "$aside" && mkdir "$root/$name"; done
chmod 1777 "$root/tmp"
mv "$root/boot-area" "$raw"
find "$root" -newermt @{now} -exec touch --no-dereference --date=@{time} {{}} +
{mke2fs}
{settle}
qemu-img convert -f raw -O qcow2 "$raw" "$root/debian.qcow2"
"""

# Unmounting is for a mount namespace of its own; where mounting is not permitted, nothing is mounted.
_PRIVATELY = """\
script={script}
if grep -q " $1/" /proc/self/mountinfo; then
    unshare --mount sh -c "$script" sh "$1"
else
    sh -c "$script" sh "$1"
fi
"""

log = logging.getLogger(__name__)


def debian() -> Path:
    """The guest's qcow2 image, built when the cache does not have it; `BuildError` when that fails."""
    distribution, codename = archive.host_release()
    names = ("debian", "debian_files", "archive", "disk", "ext4")
    recipe = [Path(__file__).with_name(f"{name}.py") for name in names]
    key = cache.key(distribution, codename, recipe=recipe)
    return cache.get("debian", key=key, build=_build) / "debian.qcow2"


def _build(directory: Path) -> None:
    tools.require("debugfs", "grub-mkimage", "mke2fs", "mmdebstrap", "qemu-img", files={_GRUB: "grub-pc-bin"})
    with tempfile.TemporaryDirectory(dir=directory) as temporary:
        scratch = Path(temporary)
        now = int(time.time())
        host = archive.host_archive()
        log.info("making the boot area with GRUB")
        boot_area = scratch / "boot-area"
        boot_area.write_bytes(_boot_area(scratch))
        files = scratch / "files.tar"
        files.write_bytes(debian_files.tar(root_uuid=_UUID, time=_TIME))
        log.info("installing %s %s and making the disk", host.distribution, host.codename)
        hooks = [
            ("essential", f"tar-in {shlex.quote(str(files))} /"),
            ("customize", _finish()),
            ("customize", f"upload {shlex.quote(str(boot_area))} /boot-area"),
            ("customize", _PRIVATELY.format(script=shlex.quote(_make_disk(now)))),
            ("customize", f"download /debian.qcow2 {shlex.quote(str(directory / 'debian.qcow2'))}"),
        ]
        argv = [
            "mmdebstrap",
            "--format=null",
            "--skip=cleanup",
            "--variant=minbase",
            "--architectures=amd64",
            f"--include={','.join([host.kernel, *_PACKAGES])}",
            *(f"--aptopt={line}" for line in host.configuration),
            *(f"--dpkgopt=path-exclude={pattern}" for pattern in _LEFT_OUT),
            *(f"--{stage}-hook={command}" for stage, command in hooks),
            host.codename,
            "/dev/null",
            *host.sources,
        ]
        tools.run(argv, env=ext4.environment(_TIME) | ({"TMPDIR": temporary} if os.geteuid() == 0 else {}))


def _finish() -> str:
    left_out = " ".join(pattern.strip("/*") for pattern in _LEFT_OUT)
    return _FINISH.format(password=shlex.quote(f"root:{_PASSWORD_HASH}"), left_out=left_out)


def _make_disk(now: int) -> str:
    start = disk.PARTITION_START
    mke2fs = ext4.mke2fs("@", size=_SIZE - start, label="debian", uuid=_UUID, offset=start, content="%")
    return _MAKE_DISK.format(
        mke2fs=shlex.join(mke2fs).replace(" @ ", ' "$raw" ').replace(" % ", ' "$root" '),
        settle=ext4.settle('"$raw"', offset=start, time=_TIME),
        now=now,
        time=_TIME,
    )


def _boot_area(scratch: Path) -> bytes:
    early = scratch / "early.cfg"
    early.write_text(f"search.fs_uuid {_UUID} root\nset prefix=($root)/boot/grub\n")
    core = scratch / "core.img"
    tools.run(["grub-mkimage", "-O", "i386-pc", "-p", "/boot/grub", "-c", early, "-o", core, *_GRUB_MODULES])
    boot = (_GRUB / "boot.img").read_bytes()
    return disk.boot_area(boot=boot, core=core.read_bytes(), size=_SIZE, signature=_DISK_SIGNATURE)
