"""Owns the attacks past QEMU's block layer: everything else that opens a file by its name, or runs a program."""

from collections.abc import Callable
from pathlib import Path

from tests.qemu.attacks.attacker import Attack, Attacker, hmp

# Character devices.


def _chardev(backend: str, **data: object) -> Callable[[Attacker], None]:
    def run(attacker: Attacker) -> None:
        filled = {key: attacker.base if value == "BASE" else value for key, value in data.items()}
        attacker.qmp("chardev-add", id="evil", backend={"type": backend, "data": filled})

    return run


def _chardev_socket(attacker: Attacker) -> None:
    address = {"type": "unix", "data": {"path": attacker.base}}
    data = {"addr": address, "server": True, "wait": False}
    attacker.qmp("chardev-add", id="evil", backend={"type": "socket", "data": data})


def _chardev_change(attacker: Attacker) -> None:
    file = {"type": "file", "data": {"out": attacker.base}}
    for device in ("monitor", "console"):
        attacker.qmp("chardev-change", id=device, backend=file)


# Dumps and logs.


def _dump_guest_memory(attacker: Attacker) -> None:
    attacker.qmp("dump-guest-memory", paging=False, protocol=f"file:{attacker.base}")


def _screendump(attacker: Attacker) -> None:
    for format in ("ppm", "png"):
        attacker.qmp("screendump", filename=attacker.base, format=format)


def _logfile(attacker: Attacker) -> None:
    attacker.hmp(f"logfile {attacker.base}")
    attacker.hmp("log in_asm,cpu,exec")
    attacker.hmp("system_reset")
    attacker.vm.qmp.wait_event("RESET")


def _trace_file(attacker: Attacker) -> None:
    attacker.hmp(f"trace-file set {attacker.base}")
    attacker.hmp("trace-file on")
    attacker.qmp("trace-event-set-state", name="*", enable=True, ignore_unavailable=True)
    attacker.hmp("trace-file flush")
    attacker.qmp("trace-event-set-state", name="*", enable=False, ignore_unavailable=True)


def _qtest_log(attacker: Attacker) -> None:
    attacker.qmp("chardev-add", id="evil", backend={"type": "null", "data": {}})
    attacker.qmp("object-add", {"qom-type": "qtest"}, id="evil2", chardev="evil", log=attacker.base)


# Migration, and programs that QEMU runs.


def _migrate(uri: str) -> Callable[[Attacker], None]:
    def run(attacker: Attacker) -> None:
        attacker.qmp("migrate", uri=uri.replace("BASE", attacker.base))
        attacker.finish_migration()

    return run


def _hmp_migrate(attacker: Attacker) -> None:
    attacker.hmp(f'migrate -d "exec:cat > \\"{attacker.base}\\""')
    attacker.finish_migration()


def _helper(kind: str) -> Callable[[Attacker], None]:
    def run(attacker: Attacker) -> None:
        attacker.qmp("netdev_add", type=kind, id="evil", helper=f"sh -c ': > \"{attacker.base}\"'")

    return run


# Objects.


def _shared_memory(attacker: Attacker) -> None:
    size = Path(attacker.base).stat().st_size
    backend: dict[str, object] = {"qom-type": "memory-backend-file", "mem-path": attacker.base}
    attacker.qmp("object-add", backend, id="evil", share=True, prealloc=True, size=size)
    attacker.qmp("device_add", driver="ivshmem-plain", memdev="evil")


def _discarded_memory(attacker: Attacker) -> None:
    size = Path(attacker.base).stat().st_size
    backend: dict[str, object] = {"qom-type": "memory-backend-file", "mem-path": attacker.base, "discard-data": True}
    attacker.qmp("object-add", backend, id="evil", share=True, size=size)
    attacker.qmp("object-del", id="evil")


def _qom_set(attacker: Attacker) -> None:
    backend: dict[str, object] = {"qom-type": "memory-backend-ram"}
    attacker.qmp("object-add", backend, id="evil", size=1 << 20)
    attacker.qmp("object-add", {"qom-type": "filter-dump"}, id="evil2", netdev="net0", file="/dev/null")
    for path, property in (("/objects/evil", "mem-path"), ("/objects/evil2", "file"), ("/machine", "firmware")):
        attacker.qmp("qom-set", path=path, property=property, value=attacker.base)


def _packet_dump(attacker: Attacker) -> None:
    attacker.qmp("object-add", {"qom-type": "filter-dump"}, id="evil", netdev="net0", file=attacker.base)


def _objects_with_paths(attacker: Attacker) -> None:
    for kind, key in (
        ("rng-random", "filename"),
        ("input-linux", "evdev"),
        ("pr-manager-helper", "path"),
        ("authz-list-file", "filename"),
        ("tls-creds-psk", "dir"),
    ):
        attacker.qmp("object-add", {"qom-type": kind, key: attacker.base}, id=f"evil-{kind}")


def _flash(attacker: Attacker) -> None:
    attacker.qmp("device_add", driver="cfi.pflash01", id="chip", drive=attacker.add_node(attacker.base))
    attacker.qmp("device_add", driver="sd-card", id="card", drive="evil")
    attacker.qmp("device_add", driver="usb-mtp", id="mtp", rootdir=str(Path(attacker.base).parent), readonly=False)


ON_FILES = (
    Attack("qmp chardev-add file", _chardev("file", out="BASE"), bites=True),
    Attack("qmp chardev-add file append", _chardev("file", out="BASE", append=True)),
    Attack("qmp chardev-add null with log", _chardev("null", logfile="BASE"), bites=True),
    *(Attack(f"qmp chardev-add {name}", _chardev(name, device="BASE")) for name in ("serial", "parallel", "pipe")),
    Attack("qmp chardev-add socket", _chardev_socket, bites=True),
    Attack("qmp chardev-change", _chardev_change, bites=True),
    hmp("chardev-add file,id=evil,path=BASE", bites=True),
    hmp("gdbserver file:BASE", bites=True),
    Attack("qmp pmemsave", lambda a: a.qmp("pmemsave", val=0x7C00, size=512, filename=a.base), bites=True),
    Attack("qmp memsave", lambda a: a.qmp("memsave", val=0x7C00, size=512, filename=a.base), bites=True),
    hmp('pmemsave 0x7c00 512 "BASE"', bites=True),
    hmp('memsave 0x7c00 512 "BASE"', bites=True),
    Attack("qmp dump-guest-memory", _dump_guest_memory, bites=True),
    hmp("dump-guest-memory BASE", bites=True),
    Attack("qmp screendump", _screendump, bites=True),
    hmp("screendump BASE", bites=True),
    Attack("qmp dumpdtb", lambda a: a.qmp("dumpdtb", filename=a.base)),
    hmp("dumpdtb BASE"),
    Attack("qmp xen-save-devices-state", lambda a: a.qmp("xen-save-devices-state", filename=a.base), bites=True),
    Attack("hmp logfile", _logfile, bites=True),
    Attack("hmp trace-file", _trace_file),
    hmp("wavcapture BASE snd0", bites=True),
    Attack("qmp object-add qtest", _qtest_log, bites=True),
    *(Attack(f"qmp migrate {name}", _migrate(f"{name}:BASE")) for name in ("file", "unix", "fd")),
    Attack("qmp migrate exec", _migrate('exec:cat > "BASE"'), bites=True),
    Attack("hmp migrate exec", _hmp_migrate, bites=True),
    Attack("qmp migrate-incoming", lambda a: a.qmp("migrate-incoming", uri=f'exec:cat > "{a.base}"')),
    Attack("qmp getfd", lambda a: a.qmp("getfd", fdname=a.base)),
    *(Attack(f"qmp netdev_add {kind}", _helper(kind), bites=True) for kind in ("tap", "bridge")),
    Attack("qmp object-add memory-backend-file", _shared_memory, bites=True),
    Attack("qmp object-add memory-backend-file discard", _discarded_memory, bites=True),
    Attack("qmp qom-set", _qom_set),
    Attack("qmp object-add filter-dump", _packet_dump, bites=True),
    Attack("qmp object-add with paths", _objects_with_paths),
    Attack("qmp device_add flash", _flash),
)
