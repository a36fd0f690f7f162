"""Owns how an image that nobody prepared gets a root shell on our virtio-serial port, and an SSH key, from outside.

Nothing is written into the image. Each way hands the guest a text that it looks for by itself when it boots: the
kernel its command line, systemd its credentials, cloud-init a seed. What runs in the guest in the end is `BOOTSTRAP`.
"""

import base64
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pytest_readonly_vm.channels.port import SHELL_PORT
from pytest_readonly_vm.config.qemu_args import escaped
from pytest_readonly_vm.config.settings import VmConfig
from pytest_readonly_vm.errors import ConfigurationError
from pytest_readonly_vm.printable import count
from pytest_readonly_vm.qemu.seed import seed

# One shell after the other, each in a session of its own; the kernel lets only one program have the port open. Finds
# the port without udev. It has no quotes and no word that an initramfs takes for an option of its own when it splits
# the kernel's command line: no lone "1", "s" or "ro". The HUP of a terminal that goes away is caught and not ignored,
# as what is ignored here would be so in every command.
_SERVE = (
    "cd /;trap : HUP;s=;command -v setsid&&s=setsid;c=/sys/class/virtio-ports;while :;do for p in $c/*;do "
    f"[ -e $p/name ]&&read -r n<$p/name&&case $n in {SHELL_PORT})d=/dev/${{p##*/}};"
    "[ -c $d ]||{ IFS=: read -r a b<$p/dev;mknod -m 600 $d c $a $b;};$s sh <>$d >&0;;esac;done;"
    "[ ! -d /sys/class ]||[ -d $c ]||modprobe -q virtio_console;"
    "sleep .2||sleep 1||busybox sleep 1;done"
)

BOOTSTRAP = f"({_SERVE})</dev/null >/dev/null 2>&1 &"
"""A line for any POSIX shell of root in the guest: serve our port for ever, in the background, once it is there."""

_MOST_PROCESSORS_TAKE = 2047  # bytes of a kernel command line; Linux cuts off what is longer without a word
HANDED_OVER = "/dev/.readonly-vm"
"""Where the script is that is init until it starts the guest's own."""

_OWN_INITS = "for i in /sbin/init /etc/init /bin/init;do [ -x $i ]&&exec $i{arguments};done;exec /bin/sh"
_INIT = re.compile(r"(?<!\S)(rdinit|init)=(\S+)\s*")
_CHANGES_ROOT = re.compile(r"(?<!\S)(root|boot|init)=")

# Where QEMU has SMBIOS tables for the guest's firmware.
_SMBIOS = ("x86_64", "i386", "aarch64", "arm")

_SERVICE = "readonly-vm-shell.service"
_UNIT = f"""\
[Unit]
Description=Root shell of pytest-readonly-vm
DefaultDependencies=no
ConditionPathExists=!/etc/initrd-release
Conflicts=shutdown.target
Before=shutdown.target
IgnoreOnIsolate=yes

[Service]
ExecStart=/bin/sh -c '{_SERVE.replace("%", "%%").replace("$", "$$")}'
StandardInput=null
StandardOutput=null
StandardError=null
Restart=always
TimeoutStopSec=5
IgnoreSIGPIPE=no
OOMPolicy=continue
TasksMax=infinity
"""
_RULE = f'SUBSYSTEM=="virtio-ports", ATTR{{name}}=="{SHELL_PORT}", TAG+="systemd", ENV{{SYSTEMD_WANTS}}+="{_SERVICE}"\n'
# A unit that systemd-tmpfiles makes is too late for the boot's own transaction, so a udev rule asks for it; and a rule
# is too late when udev has started. But a first run of systemd-tmpfiles, for what is below /dev, comes before udev.
_TMPFILES_FOR_SHELL = f"""\
L+ /dev/.readonly-vm - - - - /run
f~ /dev/.readonly-vm/systemd/system/{_SERVICE} 0644 root root - {{unit}}
f~ /dev/.readonly-vm/udev/rules.d/99-readonly-vm.rules 0644 root root - {{rule}}
"""
# "w+" appends to a file that is there, and a path can have one line only; so the file has two paths. The credential
# ssh.authorized_keys.root does nothing where the file exists, as in most cloud images once they have booted.
_TMPFILES_FOR_KEY = """\
d /root/.ssh :0700 root root
f /root/.ssh/authorized_keys :0600 root root
L+ /run/readonly-vm-root - - - - /root
w+~ /run/readonly-vm-root/.ssh/authorized_keys - - - - {line}
"""

_HOOK_FOR_KEY = """\
(umask 077; mkdir -p /root/.ssh; printf '\\n%s\\n' '{key}' >>/root/.ssh/authorized_keys)
"""
# As a service of its own the shell is not a part of cloud-init's, which has no time limit for its end.
_HOOK_FOR_SHELL = f"""\
if [ -d /run/systemd/system ]; then
cat >/run/systemd/system/{_SERVICE} <<'END OF UNIT'
{_UNIT}END OF UNIT
systemctl start --no-block {_SERVICE} && exit
fi
{BOOTSTRAP}
"""


@dataclass(frozen=True, slots=True)
class Provision:
    """What QEMU is told so that the guest opens a channel."""

    name: str
    """The ways that are taken, for a report: ``kernel, systemd``, or ``none``."""
    qemu_args: tuple[str, ...] = ()
    """Arguments in addition, to come after those for the disk."""
    append: str | None = None
    """The kernel command line of a direct boot."""
    files: Mapping[Path, bytes] = field(default_factory=dict, repr=False)
    """What the arguments name."""

    def write_files(self) -> None:
        """Make the files, for this user only."""
        for path, content in self.files.items():
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
                file.write(content)


def provision(config: VmConfig, *, key: str | None, folder: Path, arch: str, bus: str) -> Provision:
    """What `config` asks for. Files for the guest are to be in `folder`; they are made by `Provision.write_files`.

    :param key: a public key of SSH, one line, with which root can log in.
    :param folder: the machine's own.
    :param arch: the guest's architecture in QEMU's words.
    :param bus: the end of the names of QEMU's virtio devices: ``pci``, ``ccw``, ``device``.
    :raises ConfigurationError: the way that was asked for does not exist on this machine.
    """
    ways = _ways(config, arch)
    shell = config.channel in ("auto", "shell")
    append = config.append
    arguments: list[str] = []
    files: dict[Path, bytes] = {}
    if "kernel" in ways and shell:
        longer = with_shell(config.append, has_initrd=config.initrd is not None)
        excess = len(longer.encode()) - _MOST_PROCESSORS_TAKE
        if excess <= 0:
            append, shell = longer, False  # started once is enough
        elif config.provision == "kernel":
            raise ConfigurationError(
                f"{config.origin('append')}: append is {count(excess, 'byte')} too long to start a shell as well; "
                "make it shorter or use another provision"
            )
    if "systemd" in ways:
        text = credential("tmpfiles.extra", tmpfiles(key=key, shell=shell))
        file = folder / "smbios"
        files[file] = text.encode()
        arguments += ["-smbios", f"type=11,path={escaped(str(file))}"]
    if "cloud-init" in ways:
        user_data = _read(config)
        file = folder / "seed.iso"
        files[file] = seed(user_data, vendor_data=boothook(key=key, shell=shell), salt=str(config.image))
        drive = f"if=none,id=seed0,format=raw,readonly=on,file={escaped(str(file))}"
        arguments += ["-drive", drive, "-device", _SEED_DEVICE[config.disk_interface].format(bus=bus)]
    return Provision(", ".join(ways) or "none", tuple(arguments), append, files)


# On the same kind of bus as the disk, for which the guest has a driver in any case.
_SEED_DEVICE = {
    "virtio": "virtio-blk-{bus},drive=seed0",
    "scsi": "scsi-cd,drive=seed0,bus=scsi0.0",
    "sata": "ide-cd,drive=seed0,bus=sata0.1",
    "ide": "ide-cd,drive=seed0,bus=ide.1",
    "nvme": "nvme,drive=seed0,serial=seed0",
    "usb": "usb-storage,drive=seed0,bus=usb0.0",
}


def _ways(config: VmConfig, arch: str) -> tuple[str, ...]:
    def wrong(reason: str) -> ConfigurationError:
        return ConfigurationError(f"{config.origin('provision')}: provision={config.provision} {reason}")

    if config.user_data is not None and config.provision not in ("auto", "cloud-init"):
        raise wrong(f"leaves no use for user_data (from {config.origin('user_data')}); use cloud-init or auto")
    if config.provision == "kernel" and config.kernel is None:
        raise wrong("needs kernel, and there is none; an image that boots by itself takes cloud-init or systemd")
    if config.provision == "systemd" and arch not in _SMBIOS:
        raise wrong(f"needs SMBIOS tables, which {arch} machines do not have")
    if config.provision == "none":
        return ()
    if config.provision != "auto":
        return (config.provision,)
    # What a guest does not know does no harm, so whatever may work is given.
    fitting = {
        "kernel": config.kernel is not None,
        "systemd": arch in _SMBIOS,
        "cloud-init": config.user_data is not None,
    }
    return tuple(way for way, fits in fitting.items() if fits)


def with_shell(append: str | None, *, has_initrd: bool) -> str:
    """A kernel command line that starts `BOOTSTRAP` in the background and then the init that `append` asks for.

    The kernel gives init what comes after ``--`` and honours double quotes, which cannot be escaped; so arguments for
    the guest's own init are to be after ``--`` in `append` too, and without double quotes.
    """
    own, _, arguments = f" {append or ''} ".partition(" -- ")
    arguments = f" {arguments.strip()}" if arguments.strip() else ""
    inits = dict(_INIT.findall(own))
    kept = _INIT.sub("", own).strip()
    # The kernel has set HOME=/ for init, and an initramfs a PATH of its own.
    start = f"(unset HOME;PATH=/usr/local/sbin:/usr/local/bin:$PATH;{_SERVE})</dev/null >/dev/null 2>&1 &"
    init = f"exec {inits['init']}{arguments}" if "init" in inits else _OWN_INITS.format(arguments=arguments)
    early = inits.get("rdinit", "/init")
    busybox = "b=;[ -x /bin/busybox ]&&b=busybox;"  # an initramfs may have nothing else, before its init links it
    if not has_initrd:
        ours = f'init=/bin/sh -- -c "{start}{init}"'
    elif not _CHANGES_ROOT.search(own):
        # A shell in the background takes its input from /dev/null, which need not be there before devtmpfs is.
        null = "[ -c /dev/null ]||$b mknod /dev/null c $((1)) 3;"
        ours = f'rdinit=/bin/sh -- -c "{busybox}{null}{start}exec {early}{arguments}"'
    else:
        # What is started in an initramfs loses its root with it, and some (Alpine's) hand no arguments on. So a script
        # is laid where init will find it: all mounts of devtmpfs are the same file system, and it can be unmounted.
        lay = f"$b mount -t devtmpfs d /dev;echo '{start}{init}'>{HANDED_OVER};$b umount /dev;"
        ours = f'rdinit=/bin/sh init=/bin/sh init_args={HANDED_OVER} -- -c "{busybox}{lay}exec {early} {HANDED_OVER}"'
    return f"{kept} {ours}".strip()


def tmpfiles(*, key: str | None, shell: bool) -> str:
    """Lines of tmpfiles.d(5) that start the shell and let the key in."""
    text = ""
    if shell:
        text += _TMPFILES_FOR_SHELL.format(unit=_base64(_UNIT), rule=_base64(_RULE))
    if key is not None:
        text += _TMPFILES_FOR_KEY.format(line=_base64(f"\n{key.strip()}\n"))
    return text


def credential(name: str, text: str) -> str:
    """A credential for systemd as a string of an SMBIOS table of type 11; see systemd.system-credentials(7)."""
    return f"io.systemd.credential.binary:{name}={_base64(text)}"


def boothook(*, key: str | None, shell: bool) -> str:
    """A script that cloud-init runs in every boot, before all other things that it does with its data."""
    script = "#cloud-boothook\n#!/bin/sh\n"
    if key is not None:
        script += _HOOK_FOR_KEY.format(key=key.strip())
    return script + _HOOK_FOR_SHELL if shell else script


def _read(config: VmConfig) -> bytes:
    try:
        return config.user_data.read_bytes() if config.user_data else b"#cloud-config\n{}\n"
    except OSError as error:
        raise ConfigurationError(
            f"{config.origin('user_data')}: user_data: {config.user_data}: {error.strerror}"
        ) from None


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
