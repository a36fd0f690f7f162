"""Owns the names of processor architectures: what QEMU's system emulators call them, and what others do. Pure."""

from pytest_readonly_vm.config.values import nearest, text

ARCHITECTURES = (
    *("x86_64", "i386", "aarch64", "arm", "riscv64", "riscv32", "ppc64", "ppc", "s390x", "loongarch64"),
    *("mips", "mipsel", "mips64", "mips64el", "m68k", "sparc", "sparc64", "hppa", "alpha"),
)
"""Those of QEMU, which names its emulators by them: ``qemu-system-aarch64``."""

_OTHERS = {
    "amd64": "x86_64",
    "x86-64": "x86_64",
    "x64": "x86_64",
    "i686": "i386",
    "arm64": "aarch64",
    "armhf": "arm",
    "armel": "arm",
    "armv7l": "arm",
    "ppc64le": "ppc64",
    "ppc64el": "ppc64",
    "powerpc": "ppc",
    "powerpc64le": "ppc64",
    "loong64": "loongarch64",
}
"""What distributions, registries of containers and ``uname -m`` say."""

_ALSO = {"x86_64": ("i386",), "aarch64": ("arm",), "ppc64": ("ppc",), "riscv64": ("riscv32",)}
"""What an emulator runs beside guests of its own name, some with a CPU model of that kind."""


def architecture(value: object) -> str:
    """A setting: ``auto``, or an architecture by any of its names."""
    written = text(value).strip()
    found = of_computer(written)
    if found not in ("auto", *ARCHITECTURES):
        near = nearest(written, (*ARCHITECTURES, *_OTHERS))
        raise ValueError(
            f"{written!r} is no architecture that QEMU emulates{near}; such are {', '.join(ARCHITECTURES)}"
        )
    return found


def of_computer(name: str) -> str:
    """What QEMU calls what somebody else has another name for; the name itself if it knows of none."""
    return _OTHERS.get(name.lower(), name.lower())


def runs(emulator: str, guest: str) -> bool:
    """Whether the emulator of the one can run guests of the other."""
    return guest == emulator or guest in _ALSO.get(emulator, ())
