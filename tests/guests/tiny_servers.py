"""Owns the tiny Linux with what answers in larger guests: sshd and QEMU's guest agent, as the distribution has them.

Whoever logs in as root is let in: the password is empty, and that of a guest whose network nobody else has.
"""

from __future__ import annotations

import dataclasses
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.guests import archive, cache, cpio, programs, tools
from tests.guests.architectures import ARCHITECTURES, Architecture
from tests.guests.tiny_linux import TinyLinux, tiny_linux

_PACKAGES = ("openssh-server", "qemu-guest-agent")
_ALONG = ("lib", "zlib1g")
_PROGRAMS = (
    "usr/sbin/sshd",
    *("usr/lib/openssh/sshd-session", "usr/lib/openssh/sshd-auth"),  # parts of it since OpenSSH 9.8 and 10.0
    "usr/sbin/qemu-ga",
)
_HOST_KEY = "etc/ssh/ssh_host_ed25519_key"

_FILES = {
    "etc/passwd": (
        "root:x:0:0:root:/root:/bin/sh\nsshd:x:100:65534::/run/sshd:/bin/false\nnobody:x:65534:65534::/:/bin/sh\n"
    ),
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/shadow": "root::19000::::::\nsshd:*:19000::::::\nnobody:*:19000::::::\n",
    "etc/ssh/sshd_config": (
        f"HostKey /{_HOST_KEY}\nPermitEmptyPasswords yes\nPermitRootLogin yes\nPidFile none\nUsePAM no\n"
    ),
}
_START = """\
#!/bin/sh
mkdir -p /run/sshd
/usr/sbin/sshd
for port in /sys/class/virtio-ports/*; do
    [ -e $port ] && read -r name <$port/name && [ "$name" = org.qemu.guest_agent.0 ] || continue
    device=/dev/${port##*/}
    (while :; do qemu-ga --path=$device --statedir=/run --retry-path; sleep .1; done) </dev/null >/dev/null 2>&1 &
done
"""

log = logging.getLogger(__name__)


def tiny_with_servers(arch: str = "x86_64") -> TinyLinux:
    """The guest, built when the cache does not have it; `BuildError` when that fails."""
    tiny, architecture = tiny_linux(arch), ARCHITECTURES[arch]
    distribution, codename = archive.host_release()
    names = ("tiny_servers", "programs", "tiny_linux", "archive", "architectures", "cpio")
    recipe = [Path(__file__).with_name(f"{name}.py") for name in names]
    key = cache.key(distribution, codename, arch, recipe=recipe)
    folder = cache.get(f"tiny-servers-{arch}", key=key, build=lambda folder: _build(tiny, architecture, folder))
    return dataclasses.replace(tiny, initrd=folder / "initrd")


def _build(tiny: TinyLinux, architecture: Architecture, directory: Path) -> None:
    tools.require("apt-get", "dpkg-deb", "ssh-keygen", programs.READELF)
    with tempfile.TemporaryDirectory(dir=directory) as temporary:
        scratch = Path(temporary)
        root = scratch / "root"
        for package in archive.download(archive.host_archive(architecture), _PACKAGES, along=_ALONG, into=scratch):
            tools.run(["dpkg-deb", "--extract", package, root])
        key = scratch / "key"
        tools.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", key])
        log.info("packing the servers")
        content = tiny.initrd.read_bytes()
        aligned = content + bytes(-len(content) % 4)
        (directory / "initrd").write_bytes(aligned + cpio.archive([*_system(root, architecture, key.read_bytes())]))


def _system(root: Path, architecture: Architecture, host_key: bytes) -> Iterator[cpio.Member]:
    yield from programs.members(root, architecture, [name for name in _PROGRAMS if (root / name).exists()])
    for name in ("etc/ssh", "var", "var/empty"):
        yield cpio.directory(name)
    for name, text in _FILES.items():
        yield cpio.file(name, text.encode())
    yield cpio.file(_HOST_KEY, host_key, mode=0o600)
    yield cpio.file("etc/servers", _START.encode(), mode=0o755)
