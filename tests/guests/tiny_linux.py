"""Owns the smallest Linux guest: the distribution's cloud kernel, unpacked, busybox in an initramfs, and a data disk.

Boot it with ``-kernel``, ``-initrd`` and ``-append``. It prints ``tiny: ready`` on the serial port and gives a root
shell there, with the prompt ``tiny# ``. The first virtio disk, when there is one, is mounted at /mnt. It is built for
any of `ARCHITECTURES`, on one of them.
"""

from __future__ import annotations

import logging
import lzma
import re
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.guests import archive, cache, cpio, ext4, kernel, tools
from tests.guests.architectures import ARCHITECTURES, X86_64, Architecture
from tests.guests.tools import BuildError

READY = "tiny: ready"
"""The line on the serial port when the guest has booted."""

PROMPT = "tiny# "
"""What the shell on the serial port asks with."""

# The last words spare an emulated processor a fifth of the boot: relocation, and tests of ciphers that nobody uses.
_APPEND = "console={console} quiet panic=-1 nokaslr cryptomgr.notests apparmor=0 audit=0 {append}"
APPEND = _APPEND.format(console=X86_64.console, append=X86_64.append)
"""What a kernel for x86_64 is told."""
_DISK_SIZE = 64 << 20
_DISK_LABEL = "DATA"
_DISK_UUID = "8f1b0a4e-5d1c-4c59-9a3e-74696e790001"
_TIME = 1_700_000_000  # 2023-11-14, the present of everything built here
ALONG = ("linux-image-", "linux-modules-")
_DIRECTORIES = "bin dev etc mnt modules proc root run sys tmp usr"
_LINKS = {"sbin": "bin", "usr/bin": "../bin", "usr/sbin": "../bin"}
_APPLETS = re.compile(rb"\[\0\[\[\0(?:[a-z0-9_.-]+\0)+")
"""The names of busybox's commands, as they stand in its program, which need not run here."""
MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "virtio_console", "virtio_rng", "crc32c_generic", "ext4")
"""Those that the guest loads, with what they need."""

_INIT = f"""\
#!/bin/sh
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root PS1='{PROMPT}' TERM=vt100
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts
mount -t devpts devpts /dev/pts
for module in /modules/*; do insmod "$module"; done
[ -b /dev/vda ] && mount /dev/vda /mnt
hostname tiny
ip link set lo up
if [ -d /sys/class/net/eth0 ]; then  # QEMU's user network, without waiting for its DHCP server
    ip address add 10.0.2.15/24 dev eth0
    ip link set eth0 up
    ip route add default via 10.0.2.2
fi
[ ! -x /etc/servers ] || /etc/servers
cd /root
echo '{READY}'
while :; do setsid cttyhack sh; done
"""


log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TinyLinux:
    """What to boot."""

    kernel: Path
    initrd: Path
    disk: Path
    """A qcow2 image holding an ext4 file system with the label DATA; to be the first virtio disk."""
    append: str
    """The kernel command line."""


def tiny_linux(arch: str = "x86_64") -> TinyLinux:
    """The guest, built when the cache does not have it; `BuildError` when that fails."""
    distribution, codename = archive.host_release()
    names = ("tiny_linux", "kernel", "archive", "architectures", "cpio", "ext4")
    recipe = [Path(__file__).with_name(f"{name}.py") for name in names]
    key = cache.key(distribution, codename, arch, recipe=recipe)
    architecture = ARCHITECTURES[arch]
    directory = cache.get(f"tiny-{arch}", key=key, build=lambda folder: _build(architecture, folder))
    append = _APPEND.format(console=architecture.console, append=architecture.append).strip()
    return TinyLinux(directory / "vmlinux", directory / "initrd", directory / "data.qcow2", append)


def _build(architecture: Architecture, directory: Path) -> None:
    tools.require("apt-get", "dpkg-deb", "mke2fs", "qemu-img")
    with tempfile.TemporaryDirectory(dir=directory) as temporary:
        scratch = Path(temporary)
        host = archive.host_archive(architecture)
        packages = archive.download(host, [host.kernel, "busybox-static"], along=ALONG, into=scratch)
        root = scratch / "root"
        for package in packages:
            log.info("unpacking %s", package.name)
            tools.run(["dpkg-deb", "--extract", package, root])
        image = only(root.glob("boot/vmlinu[xz]-*"))
        log.info("packing the initramfs")
        members = [*system(root), *modules(root, image.name.partition("-")[2])]
        # Not compressed: at 3 MB, unpacking gzip costs the emulated processor more than reading saves.
        (directory / "initrd").write_bytes(cpio.archive(members))
        kernel.unpack(image, directory / "vmlinux")
        log.info("making the data disk")
        raw = scratch / "data.raw"
        mke2fs = ext4.mke2fs(str(raw), size=_DISK_SIZE, label=_DISK_LABEL, uuid=_DISK_UUID)
        tools.run(mke2fs, env=ext4.environment(_TIME))
        tools.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, directory / "data.qcow2"])


def only(paths: Iterable[Path]) -> Path:
    """The file that was looked for; `BuildError` unless there is exactly one."""
    found = sorted(paths)
    if len(found) != 1:
        raise BuildError(f"one file was expected in the packages, these are there: {found}")
    return found[0]


def system(root: Path) -> Iterator[cpio.Member]:
    """Everything but the kernel modules."""
    busybox = only(path for path in root.glob("**/bin/busybox") if not path.is_symlink())
    for name in _DIRECTORIES.split():
        yield cpio.directory(name)
    for name, target in _LINKS.items():
        yield cpio.symlink(name, target)
    yield cpio.character_device("dev/console", 5, 1)
    yield cpio.file("init", _INIT.encode(), mode=0o755)
    yield cpio.file("bin/busybox", busybox.read_bytes(), mode=0o755)
    for applet in _applets(busybox.read_bytes()):
        yield cpio.symlink(f"bin/{applet}", "/bin/busybox")


def _applets(program: bytes) -> list[str]:
    if not (found := _APPLETS.search(program)):
        raise BuildError("this busybox does not have the names of its commands where others do")
    return [name for name in found[0].decode().split("\0") if name not in ("", "busybox")]


def modules(root: Path, version: str, names: Iterable[str] = MODULES) -> Iterator[cpio.Member]:
    """The kernel modules, numbered in the order in which they have to be loaded."""
    home = only(root.glob(f"**/lib/modules/{version}"))
    files = {_module_name(path): path for path in home.glob("kernel/**/*.ko*")}
    builtin = {_module_name(Path(line)) for line in (home / "modules.builtin").read_text().split()}
    order: dict[str, bytes] = {}

    def add(name: str) -> None:
        if name in order or name in builtin:
            return
        if name not in files:
            raise BuildError(f"kernel {version} has no module {name}")
        content = _read_module(files[name])
        depends = re.search(rb"\0depends=([^\0]*)\0", content)
        for needed in depends[1].decode().split(",") if depends and depends[1] else []:
            add(needed.replace("-", "_"))
        order[name] = content

    for name in names:
        add(name)
    for number, (name, content) in enumerate(order.items()):
        yield cpio.file(f"modules/{number:02}-{name}.ko", content)


def _module_name(path: Path) -> str:
    return path.name.split(".", maxsplit=1)[0].replace("-", "_")


def _read_module(path: Path) -> bytes:
    """A module's ELF file; distributions compress them or not."""
    if path.suffix == ".xz":
        return lzma.decompress(path.read_bytes())
    if path.suffix == ".zst":
        tools.run(["zstd", "--decompress", "--quiet", path, "-o", path.with_suffix("")])
        return path.with_suffix("").read_bytes()
    return path.read_bytes()
