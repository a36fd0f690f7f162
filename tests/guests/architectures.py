"""Owns the architectures that guests are built for: what each is called by whom, and where its kernel comes from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """One of them."""

    packages: str
    """What the distributions call it."""
    libraries: str
    """The folder of its libraries, below ``lib``: Debian's multiarch tuple."""
    loader: str
    """The program that loads the others' libraries."""
    debian_kernel: str
    """The package that depends on the newest kernel for virtual machines, or on the smallest there is."""
    ubuntu_kernel: str = ""
    """The same; Ubuntu has what it is not built on in another archive, which a host does not know of."""
    console: str
    """Linux's name of the serial port."""
    suite: str = ""
    """The first release of Debian that has it."""
    append: str = ""
    """What spares its emulated processor some of the boot."""


X86_64 = Architecture(
    packages="amd64",
    libraries="x86_64-linux-gnu",
    loader="lib64/ld-linux-x86-64.so.2",
    debian_kernel="linux-image-cloud-amd64",
    ubuntu_kernel="linux-image-virtual",
    console="ttyS0",
    # An emulated timer is late on a busy host, and Linux takes a late one for one that is broken, and panics.
    append="mitigations=off no_timer_check",
)
"""That of the hosts on which guests are built."""

ARCHITECTURES = {
    "x86_64": X86_64,
    "aarch64": Architecture(
        packages="arm64",
        libraries="aarch64-linux-gnu",
        loader="lib/ld-linux-aarch64.so.1",
        debian_kernel="linux-image-cloud-arm64",
        console="ttyAMA0",
        append="mitigations=off",
    ),
    "arm": Architecture(
        packages="armhf",
        libraries="arm-linux-gnueabihf",
        loader="lib/ld-linux-armhf.so.3",
        debian_kernel="linux-image-armmp-lpae",
        console="ttyAMA0",
    ),
    "riscv64": Architecture(
        packages="riscv64",
        libraries="riscv64-linux-gnu",
        loader="lib/ld-linux-riscv64-lp64d.so.1",
        debian_kernel="linux-image-riscv64",
        console="ttyS0",
        suite="trixie",
    ),
    "ppc64": Architecture(
        packages="ppc64el",
        libraries="powerpc64le-linux-gnu",
        loader="lib64/ld64.so.2",
        debian_kernel="linux-image-powerpc64le",
        console="hvc0",
    ),
    "s390x": Architecture(
        packages="s390x",
        libraries="s390x-linux-gnu",
        loader="lib/ld64.so.1",
        debian_kernel="linux-image-s390x",
        console="ttysclp0",
    ),
}
"""By what QEMU calls them."""
