"""Owns the recipe of a user's image: the host's own release of Debian (or Ubuntu) on a disk that boots.

Beside it are what other disks with the same files are made of, see `debian_uefi`.

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
ROOT_UUID = "8f1b0a4e-5d1c-4c59-9a3e-646562690001"
BTRFS_UUID = "8f1b0a4e-5d1c-4c59-9a3e-646562690002"
PARTITION_SIZE = _SIZE - disk.PARTITION_START
"""In bytes, of the only partition, whatever its file system."""
WORDS = f"console=tty0 console=ttyS0,115200 quiet {debian_files.KERNEL_WORDS}"
"""Of the kernel's command line, what does not depend on where the root is."""
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
)
_VOLUMES = ("lvm2", "btrfs-progs")
"""Packages of which a second initramfs has what it takes to find the root; the guest has none of them."""
_VOLUMES_ALONG = ("dmsetup", "libaio", "libdevmapper", "libedit", "liblzo2", "libbsd", "libmd")
_LEFT_OUT = ("/usr/share/doc/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/man/*")

# Both scripts run inside mmdebstrap, as root or as the root of a user namespace; $1 is the guest's tree. They
# are in its tmp, which does not become part of the image.
_FINISH = """\
set -eu
cd "$1"
chroot . systemctl --quiet enable systemd-networkd
echo {password} | chroot . chpasswd --encrypted
(cd boot && ln -s vmlinuz-* vmlinuz && ln -s initrd.img-* initrd.img)
echo nameserver 10.0.2.3 > etc/resolv.conf
: > etc/machine-id
rm -f etc/apt/apt.conf.d/??mmdebstrap etc/*- etc/.resolv.conf.* etc/ssh/ssh_host_*_key*
rm -rf usr/share/python3/debpython/__pycache__
rm -f var/lib/dbus/machine-id var/lib/systemd/random-seed var/lib/dpkg/*-old
rm -rf var/lib/apt/lists/* var/cache/apt/* var/cache/debconf/*-old var/cache/ldconfig/*
find {left_out} -mindepth 1 -delete
find var/log -type f -delete
touch etc/.updated var/.updated  # what systemd does once after an update of /usr is done
# In a reproducible build Python's cached code holds a hash of its source, and an import reads and hashes the
# source again: seconds of cloud-init. Have the usual cache, which compares the time.
chroot . env --unset=SOURCE_DATE_EPOCH python3 -m compileall -qq -f -j 0 --invalidation-mode timestamp \
    /usr/lib/python3 /usr/lib/python3.* || :
"""

_MAKE_DISK = """\
set -eu
root=$1 raw=$1.raw aside=$1.aside
# mke2fs copies whatever it finds. Put aside what is of use only now; it must come back, as tmp has what keeps
# mmdebstrap's apt-get off the host's own package lists. Cover what mmdebstrap has mounted.
restore() {{
    for name in dev run tmp; do rmdir "$root/$name" && mv "$aside/$name" "$root"; done
    rm -rf "$raw" "$aside"
}}
trap restore EXIT
mkdir "$aside"
for name in dev run tmp; do mv "$root/$name" "$aside" && mkdir "$root/$name"; done
chmod 1777 "$root/tmp"
for name in proc sys; do
    if mountpoint -q "$root/$name"; then mount -t tmpfs -o mode=0555 tmpfs "$root/$name"; fi
done
find "$root" -newermt @{now} -exec touch --no-dereference --date=@{time} {{}} +
if [ -e "$root/boot/initrd-volumes.img" ]; then
    truncate --size={size} "$raw" "$raw.btrfs"
    truncate --size={partition} "$raw.btrfs"
    from=$root
    if mountpoint -q "$root/proc"; then  # it leaves out what has something mounted on it, which this view has not
        from=$root.plain
        mkdir "$from"
        mount --bind "$root" "$from"
    fi
    mkfs.btrfs --quiet --uuid {btrfs_uuid} --rootdir "$from" "$raw.btrfs"
    if [ "$from" != "$root" ]; then umount "$from" && rmdir "$from"; fi
    dd if="$raw.btrfs" of="$raw" bs=1M seek=1 conv=sparse,notrunc status=none
    rm "$raw.btrfs"
    qemu-img convert -f raw -O qcow2 "$raw" "$aside/tmp/btrfs.qcow2"
else
    mv "$aside/tmp/boot-area" "$raw"
    {mke2fs}
    {settle}
    qemu-img convert -f raw -O qcow2 "$raw" "$aside/tmp/debian.qcow2"
fi
"""

# The kernel and the second initramfs, and the tree as it is on a btrfs.
_VOLUMES_TOO = """\
set -eu
cd "$1"
cp --dereference boot/vmlinuz tmp/vmlinuz
for package in tmp/volumes/*.deb; do
    dpkg-deb --fsys-tarfile "$package" | tar --extract --keep-directory-symlink  # as /lib and /sbin are links
done
echo manual_add_modules btrfs >>etc/initramfs-tools/hooks/guest
chroot . /usr/sbin/mkinitramfs -o /boot/initrd-volumes.img $(basename lib/modules/*)
cp boot/initrd-volumes.img tmp/
echo 'UUID={btrfs_uuid} / btrfs defaults 0 0' >etc/fstab
"""

# Mounting is for a mount namespace of its own. Where it is not permitted, mmdebstrap has mounted nothing.
_RUN_MAKE_DISK = """\
if mountpoint -q "$1/proc"; then set -- "$1" unshare --mount; fi
root=$1; shift
"$@" sh "$root/tmp/make-disk" "$root"
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
    privileged = os.geteuid() == 0
    needed = ["debugfs", "grub-mkimage", "mke2fs", "mkfs.btrfs", "mmdebstrap", "qemu-img"]
    tools.require(*needed, *([] if privileged else ["newuidmap"]), files={_GRUB: "grub-pc-bin"})
    with tempfile.TemporaryDirectory(dir=directory) as temporary:
        scratch = Path(temporary)
        now = int(time.time())
        host = archive.host_archive()
        log.info("making the boot area with GRUB")
        inputs = {
            "boot-area": _boot_area(scratch),
            "files.tar": debian_files.tar(root_uuid=ROOT_UUID, time=_TIME),
            "finish": _finish().encode(),
            "make-disk": _make_disk(now).encode(),
            "volumes-too": _VOLUMES_TOO.format(btrfs_uuid=BTRFS_UUID).encode(),
        }
        volumes = scratch / "volumes"
        volumes.mkdir()
        archive.download(host, _VOLUMES, along=_VOLUMES_ALONG, into=volumes)
        for name, content in inputs.items():
            (scratch / name).write_bytes(content)
        log.info("installing %s %s and making the disk", host.distribution, host.codename)
        hooks = [
            ("essential", f"tar-in {shlex.quote(str(scratch / 'files.tar'))} /"),
            *(
                ("customize", f"upload {shlex.quote(str(scratch / name))} /tmp/{name}")
                for name in ("boot-area", "finish", "make-disk", "volumes-too")
            ),
            ("customize", 'sh "$1/tmp/finish" "$1"'),
            ("customize", _RUN_MAKE_DISK),
            ("customize", f'mkdir "$1/tmp/volumes"; cp {shlex.quote(str(volumes))}/*.deb "$1/tmp/volumes"'),
            ("customize", 'sh "$1/tmp/volumes-too" "$1"'),
            ("customize", _RUN_MAKE_DISK),
            *(
                ("customize", f"download /tmp/{name} {shlex.quote(str(directory / name))}")
                for name in ("debian.qcow2", "btrfs.qcow2", "vmlinuz", "initrd-volumes.img")
            ),
        ]
        argv = [
            "mmdebstrap",
            "--quiet",
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
        # Another user's namespace cannot enter a home directory with mode 700, but it can /tmp.
        place = {"TMPDIR": temporary} if privileged else {}
        tools.run(argv, env=ext4.environment(_TIME) | place)


def _finish() -> str:
    left_out = " ".join(pattern.strip("/*") for pattern in _LEFT_OUT)
    return _FINISH.format(password=shlex.quote(f"root:{_PASSWORD_HASH}"), left_out=left_out)


def _make_disk(now: int) -> str:
    start = disk.PARTITION_START
    mke2fs = ext4.mke2fs("@", size=_SIZE - start, label="debian", uuid=ROOT_UUID, offset=start, content="%")
    return _MAKE_DISK.format(
        mke2fs=shlex.join(mke2fs).replace(" @ ", ' "$raw" ').replace(" % ", ' "$root" '),
        settle=ext4.settle('"$raw"', offset=start, time=_TIME),
        size=_SIZE,
        partition=PARTITION_SIZE,
        btrfs_uuid=BTRFS_UUID,
        now=now,
        time=_TIME,
    )


def _boot_area(scratch: Path) -> bytes:
    early = scratch / "early.cfg"
    early.write_text(f"search.fs_uuid {ROOT_UUID} root\nset prefix=($root)/boot/grub\n")
    core = scratch / "core.img"
    tools.run(["grub-mkimage", "-O", "i386-pc", "-p", "/boot/grub", "-c", early, "-o", core, *_GRUB_MODULES])
    boot = (_GRUB / "boot.img").read_bytes()
    return disk.boot_area(boot=boot, core=core.read_bytes(), size=_SIZE, signature=_DISK_SIGNATURE)
