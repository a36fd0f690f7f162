"""Owns the files that turn installed packages into the Debian guest: path in the guest to content."""

from __future__ import annotations

import io
import tarfile

MASKED = (
    # Housekeeping that would start minutes after the boot, in the middle of a test.
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "logrotate.timer",
    "man-db.timer",
    "motd-news.timer",
    # What no test needs and an emulated processor takes some tenths of a second for; the first one, five.
    "systemd-resolved.service",
    "dev-hugepages.mount",
    "kmod-static-nodes.service",
    "modprobe@configfs.service",
    "modprobe@dm_mod.service",
    "modprobe@drm.service",
    "modprobe@efi_pstore.service",
    "modprobe@fuse.service",
    "modprobe@loop.service",
    "proc-sys-fs-binfmt_misc.automount",
    "sys-fs-fuse-connections.mount",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-binfmt.service",
    "systemd-machine-id-commit.service",
    "systemd-network-generator.service",
    "systemd-pstore.service",
    "systemd-repart.service",
    "systemd-update-utmp.service",
    "systemd-update-utmp-runlevel.service",
)
"""Units that never start."""

NOT_RUN = (
    "cryptsetup",
    "gpt-auto",
    "hibernate-resume",
    "integritysetup",
    "rc-local",
    "sysv",
    "system-update",
    "veritysetup",
)
"""Generators of units for what the guest does not have."""

BLACKLISTED = (
    # Ciphers in instructions that are emulated no faster than the plain code, but are tested when they are loaded.
    "aesni_intel",
    "crc32_pclmul",
    "crc32c_intel",
    "crct10dif_pclmul",
    "ghash_clmulni_intel",
    "sha1_ssse3",
    "sha256_ssse3",
    "sha512_ssse3",
    # Of processors that QEMU has none of, or only the host.
    "acpi_cpufreq",
    "kvm_amd",
    "kvm_intel",
    "powernow_k8",
    # A mouse, behind a port that is slow to answer.
    "psmouse",
    "serio_raw",
)
"""Modules of the kernel that udev is not to load."""


def files(*, root_uuid: str) -> dict[str, str]:
    """Every file that the guest has beside those of its packages, without the leading slash."""
    return {
        "boot/grub/grub.cfg": _GRUB.format(root_uuid=root_uuid, words=KERNEL_WORDS),
        "etc/cloud/cloud.cfg.d/90_guest.cfg": _CLOUD_INIT,
        "etc/cloud/ds-identify.cfg": "policy: search,found=all,maybe=none,notfound=disabled\n",
        "etc/fstab": f"UUID={root_uuid} / ext4 errors=remount-ro 0 0\n",
        "etc/hostname": "debian\n",
        "etc/hosts": "127.0.0.1 localhost\n127.0.1.1 debian\n::1 localhost ip6-localhost ip6-loopback\n",
        "etc/initramfs-tools/conf.d/guest.conf": "MODULES=list\nCOMPRESS=gzip\n",
        "etc/initramfs-tools/hooks/guest": _INITRAMFS_HOOK,
        "etc/modprobe.d/guest.conf": "".join(f"blacklist {module}\n" for module in BLACKLISTED),
        "etc/ssh/sshd_config.d/guest.conf": _SSHD,
        "etc/systemd/network/80-dhcp.network": _NETWORK,
        "etc/systemd/system/ssh.service.d/host-key.conf": _HOST_KEY,
        "etc/systemd/system/systemd-networkd-wait-online.service.d/limit.conf": _WAIT_ONLINE,
    }


def tar(*, root_uuid: str, time: int) -> bytes:
    """An archive of `files` and the links that mask units and generators, everything dated `time`."""
    links = {f"etc/systemd/system/{unit}": "/dev/null" for unit in MASKED}
    links |= {f"etc/systemd/system-generators/systemd-{name}-generator": "/dev/null" for name in NOT_RUN}
    result = io.BytesIO()
    with tarfile.open(fileobj=result, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, target in sorted(links.items()):
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.mtime = tarfile.SYMTYPE, target, time
            archive.addfile(member)
        for name, text in sorted(files(root_uuid=root_uuid).items()):
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(text.encode()), time
            member.mode = 0o755 if text.startswith("#!") else 0o644
            archive.addfile(member, io.BytesIO(text.encode()))
    return result.getvalue()


KERNEL_WORDS = "mitigations=off nokaslr cryptomgr.notests no_timer_check"
"""Of the kernel's command line, what spares an emulated processor a twentieth of the boot.

The last one, as an emulated timer is late on a busy host, and Linux takes a late one for one that is broken.
"""

# The 32-bit boot protocol, plain "linux", has GRUB move 50 MB byte by byte: more than a second of emulation.
_GRUB = """\
serial --unit=0 --speed=115200
terminal_input console serial
terminal_output console serial
set timeout=0
menuentry "Debian GNU/Linux" {{
    linux16 /boot/vmlinuz root=UUID={root_uuid} ro console=tty0 console=ttyS0,115200 quiet {words}
    initrd16 /boot/initrd.img
}}
"""

# The initramfs needs no more than what finds the root file system on the disks that QEMU has, and the drives
# in which ds-identify looks for a seed before udev has loaded their modules.
_INITRAMFS_HOOK = """\
#!/bin/sh
[ "$1" = prereqs ] && exit 0
. /usr/share/initramfs-tools/hook-functions
manual_add_modules virtio_pci virtio_blk virtio_scsi ata_piix ahci nvme usb_storage xhci_pci sd_mod sr_mod
"""

# Two sources besides None: with one, ds-identify takes it unseen and cloud-init runs in every boot. Of the modules,
# which take most of its time, those are left that do something here.
_CLOUD_INIT = """\
datasource_list: [NoCloud, ConfigDrive, None]
ssh_genkeytypes: [ed25519]
cloud_init_modules: [seed_random, bootcmd, write-files, set_hostname, users-groups, ssh]
cloud_config_modules: [set-passwords, runcmd]
cloud_final_modules: [scripts-user, final-message]
"""

_NETWORK = """\
[Match]
Type=ether

[Network]
DHCP=yes
"""

# Without an ethernet interface there is nothing to wait for; stock systemd waits two minutes and then fails.
_WAIT_ONLINE = """\
[Service]
ExecCondition=/bin/sh -c 'ls -d /sys/class/net/e*'
ExecStart=
ExecStart=/lib/systemd/systemd-networkd-wait-online --any --timeout=15
"""

_SSHD = """\
HostKey /etc/ssh/ssh_host_ed25519_key
PermitRootLogin yes
"""

_KEY_FILE = "/etc/ssh/ssh_host_ed25519_key"

# The image has no host key, as two guests must not share one. With a seed, cloud-init makes it before this.
_HOST_KEY = f"""\
[Service]
ExecStartPre=
ExecStartPre=/bin/sh -c 'test -s "$0" || {{ rm -f "$0"; ssh-keygen -q -t ed25519 -N "" -f "$0"; sync; }}' {_KEY_FILE}
"""
