"""Owns the attacks through QEMU's block layer: on the disk that is there, by a second way to its file, by a server."""

from collections.abc import Callable
from pathlib import Path

from tests.ports import port_to_come
from tests.qemu.attacks.attacker import Attack, Attacker, hmp

# The disk itself.


def _block_commit(attacker: Attacker) -> None:
    attacker.qmp("block-commit", device="disk0", job_id="job")
    attacker.finish_jobs()


def _reopen_writable(attacker: Attacker) -> None:
    for node in attacker.qmp("query-named-block-nodes", flat=True):
        options: dict[str, object] = {"driver": node["drv"], "node-name": node["node-name"], "read-only": False}
        if node["drv"] == "file":
            options |= {"filename": node["file"], "locking": "off"}
        if node["ro"]:
            attacker.qmp("blockdev-reopen", options=[options])
            attacker.spoil(node["node-name"])


def _reopen_by_qemu_io(attacker: Attacker) -> None:
    for node in attacker.base_nodes():
        attacker.hmp(f'qemu-io {node} "reopen -w"')
        attacker.spoil(node)


def _write_base_nodes(attacker: Attacker) -> None:
    for node in attacker.base_nodes():
        attacker.spoil(node)
        attacker.hmp(f'qemu-io {node} "truncate 0"')


def _resize_base_nodes(attacker: Attacker) -> None:
    for node in attacker.base_nodes():
        attacker.qmp("block_resize", node_name=node, size=4 << 20)


def _change_backing_file(attacker: Attacker) -> None:
    for node in attacker.base_nodes():
        attacker.qmp("change-backing-file", device="disk0", image_node_name=node, backing_file="elsewhere")


def _persistent_bitmap(attacker: Attacker) -> None:
    for node in attacker.base_nodes():
        attacker.qmp("block-dirty-bitmap-add", node=node, name="evil", persistent=True)
    attacker.qmp("quit")


def _internal_snapshots(attacker: Attacker) -> None:
    attacker.hmp("savevm evil")
    attacker.hmp("snapshot_blkdev_internal disk0 evil2")
    attacker.qmp("blockdev-snapshot-internal-sync", device="disk0", name="evil3")
    for number, node in enumerate(attacker.base_nodes()):
        attacker.qmp("snapshot-save", job_id=f"job{number}", tag="evil4", vmstate=node, devices=[node])
        attacker.finish_jobs()
        attacker.qmp("snapshot-delete", job_id=f"job{number}", tag="evil4", devices=[node])
        attacker.finish_jobs()


# A second way to the file, opened by name.


def _add_writable_node(attacker: Attacker) -> None:
    attacker.spoil(attacker.add_node(attacker.base))


def _add_node_by_descriptor_set(attacker: Attacker) -> None:
    for fdset in attacker.qmp("query-fdsets"):
        attacker.spoil(attacker.add_node(f"/dev/fdset/{fdset['fdset-id']}"))


def _add_node_by_proc(attacker: Attacker) -> None:
    for fdset in attacker.qmp("query-fdsets"):
        for held in fdset["fds"]:
            attacker.spoil(attacker.add_node(f"/proc/self/fd/{held['fd']}"))


def _drive_add(attacker: Attacker) -> None:
    name = attacker.base.replace(",", ",,")
    attacker.hmp(f"drive_add 0 if=none,id=evil,format=raw,file.locking=off,file={name}")
    attacker.hmp("device_add virtio-blk-pci,drive=evil,share-rw=on")
    attacker.spoil("evil")


def _change_medium(attacker: Attacker) -> None:
    attacker.qmp("device_add", driver="virtio-scsi-pci", id="bus")
    attacker.qmp("device_add", driver="scsi-cd", id="tray", bus="bus.0")
    for mode in ("read-write", "retain"):
        attacker.qmp("blockdev-change-medium", {"read-only-mode": mode}, id="tray", filename=attacker.writable())
        attacker.hmp('qemu-io -d tray "write -P 0x5a 0 2048"')
        attacker.hmp(f"change tray -f {attacker.base} raw {mode}")
        attacker.hmp('qemu-io -d tray "write -P 0x5a 0 2048"')


def _copy_onto(command: str) -> Callable[[Attacker], None]:
    def run(attacker: Attacker) -> None:
        target: dict[str, object] = {"target": attacker.writable(), "mode": "existing", "format": "raw"}
        attacker.qmp(command, target, job_id="job", device="disk0", sync="full")
        attacker.finish_jobs()
        attacker.qmp(command, target | {"target": attacker.base}, job_id="job", device="disk0", sync="full")
        attacker.finish_jobs()
        attacker.qmp(command, target | {"mode": "absolute-paths"}, job_id="job", device="disk0", sync="full")
        attacker.finish_jobs()

    return run


def _copy_onto_node(command: str) -> Callable[[Attacker], None]:
    def run(attacker: Attacker) -> None:
        attacker.qmp(command, device="disk0", target=attacker.add_node(attacker.base), sync="full", job_id="job")
        attacker.finish_jobs()

    return run


def _hmp_copy_onto(command: str) -> Callable[[Attacker], None]:
    def run(attacker: Attacker) -> None:
        for flags in ("-n -f", "-f"):
            attacker.hmp(f"{command} {flags} disk0 {attacker.base} raw")
            attacker.finish_jobs()

    return run


def _snapshot_onto(attacker: Attacker) -> None:
    for mode in ("existing", "absolute-paths"):
        arguments: dict[str, object] = {"snapshot-file": attacker.base, "format": "qcow2", "mode": mode}
        attacker.qmp("blockdev-snapshot-sync", arguments, device="disk0")
    attacker.spoil("disk0")


def _hmp_snapshot_onto(attacker: Attacker) -> None:
    attacker.hmp(f"snapshot_blkdev -n disk0 {attacker.base} qcow2")
    attacker.hmp(f"snapshot_blkdev disk0 {attacker.base} qcow2")
    attacker.spoil("disk0")


def _create(attacker: Attacker) -> None:
    attacker.qmp("blockdev-create", job_id="job", options={"driver": "file", "filename": attacker.base, "size": 4096})
    attacker.finish_jobs()


def _format(attacker: Attacker) -> None:
    node = attacker.add_node(attacker.base)
    attacker.qmp("blockdev-create", job_id="job", options={"driver": "qcow2", "file": node, "size": 1 << 20})
    attacker.finish_jobs()


def _log_writes(attacker: Attacker) -> None:
    log = {"driver": "file", "filename": attacker.base, "locking": "off"}
    disk = {"driver": "null-co", "size": 1 << 20}
    attacker.qmp("blockdev-add", driver="blklogwrites", node_name="evil", file=disk, log=log)
    attacker.hmp('qemu-io evil "write 0 512"')
    attacker.hmp('qemu-io evil "flush"')


def _write_folder(attacker: Attacker) -> None:
    folder = str(Path(attacker.base).parent)
    attacker.qmp("blockdev-add", {"fat-type": 16}, driver="vvfat", node_name="evil", dir=folder, rw=True)
    attacker.spoil("evil")


# A server of QEMU's, in the base's place or for somebody else to write by.


def _export_by_nbd(attacker: Attacker) -> None:
    port = port_to_come()
    attacker.qmp("nbd-server-start", addr={"type": "inet", "data": {"host": "127.0.0.1", "port": str(port)}})
    attacker.add_node(attacker.base)
    for number, node in enumerate(["evil", *attacker.base_nodes()]):
        attacker.qmp("nbd-server-add", device=node, name=f"old{number}", writable=True)
        export: dict[str, object] = {"type": "nbd", "id": f"new{number}", "node-name": node, "writable": True}
        attacker.qmp("block-export-add", export, name=f"new{number}")
        attacker.write_by_nbd(f"old{number}", port)
        attacker.write_by_nbd(f"new{number}", port)


def _nbd_socket(attacker: Attacker) -> None:
    attacker.qmp("nbd-server-start", addr={"type": "unix", "data": {"path": attacker.base}})


def _vhost_user_socket(attacker: Attacker) -> None:
    export: dict[str, object] = {"type": "vhost-user-blk", "id": "evil", "node-name": attacker.base_nodes()[0]}
    attacker.qmp("block-export-add", export, addr={"type": "unix", "path": attacker.base})


def _fuse_mount(attacker: Attacker) -> None:
    nodes = [node["node-name"] for node in attacker.qmp("query-named-block-nodes", flat=True)]
    for number, node in enumerate(nodes):
        for writable in (True, False):
            export: dict[str, object] = {"type": "fuse", "id": f"evil{number}", "node-name": node}
            attacker.qmp("block-export-add", export, mountpoint=attacker.base, growable=writable, writable=writable)


def _netdev_socket(attacker: Attacker) -> None:
    address = {"type": "unix", "path": attacker.base}
    attacker.qmp("netdev_add", type="dgram", id="evil", local=address, remote=address)
    attacker.qmp("netdev_add", type="stream", id="evil2", server=True, addr=address)


def _vnc_socket(attacker: Attacker) -> None:
    attacker.qmp("display-update", {"type": "vnc"}, addresses=[{"type": "unix", "path": attacker.base}])


ON_ITS_OWN_DISK = (
    hmp("commit all"),
    hmp("commit disk0"),
    Attack("qmp block-commit", _block_commit),
    Attack("qmp blockdev-reopen", _reopen_writable),
    Attack("hmp qemu-io reopen -w", _reopen_by_qemu_io),
    Attack("hmp qemu-io write", _write_base_nodes),
    Attack("qmp block_resize", _resize_base_nodes),
    Attack("qmp change-backing-file", _change_backing_file),
    Attack("qmp block-dirty-bitmap-add persistent", _persistent_bitmap),
    Attack("internal snapshots", _internal_snapshots),
    Attack("qmp blockdev-add fdset", _add_node_by_descriptor_set),
)
"""Attacks on the disk that the machine has, which go by the descriptors that it was given."""

ON_DISKS = (
    *ON_ITS_OWN_DISK,
    Attack("qmp blockdev-add", _add_writable_node, bites=True),
    Attack("qmp blockdev-add proc", _add_node_by_proc, bites=True),
    Attack("hmp drive_add", _drive_add, bites=True),
    Attack("change medium", _change_medium, bites=True),
    *(Attack(f"qmp {name}", _copy_onto(name), bites=True) for name in ("drive-mirror", "drive-backup")),
    *(Attack(f"qmp {name}", _copy_onto_node(name), bites=True) for name in ("blockdev-mirror", "blockdev-backup")),
    *(Attack(f"hmp {name}", _hmp_copy_onto(name), bites=True) for name in ("drive_mirror", "drive_backup")),
    Attack("qmp blockdev-snapshot-sync", _snapshot_onto, bites=True),
    Attack("hmp snapshot_blkdev", _hmp_snapshot_onto, bites=True),
    Attack("qmp blockdev-create file", _create),
    Attack("qmp blockdev-create qcow2", _format, bites=True),
    Attack("qmp blockdev-add blklogwrites", _log_writes, bites=True),
    Attack("qmp blockdev-add vvfat", _write_folder),
    Attack("nbd export", _export_by_nbd, bites=True),
    Attack("qmp nbd-server-start socket", _nbd_socket, bites=True),
    Attack("qmp block-export-add vhost-user-blk", _vhost_user_socket, bites=True),
    Attack("qmp block-export-add fuse", _fuse_mount),
    Attack("qmp netdev_add socket", _netdev_socket, bites=True),
    Attack("qmp display-update vnc", _vnc_socket),
)
