"""Whoever holds the monitor, as root, cannot change the base image; and where the seal is off, who did it is named."""

import hashlib
import os
import secrets
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from pytest_readonly_vm import QmpError, VirtualMachine
from pytest_readonly_vm.host.seal import Bounds, Landlock, landlock_abi, restrict_self
from tests.conftest import READY, SMALL
from tests.guests import bootsector
from tests.qemu.attacks import ATTACKS, ON_DISKS, ON_FILES, ON_ITS_OWN_DISK, Attack
from tests.qemu.junit import read_problems

ROOT = Path(__file__).parents[2]
AUDIO = ("-audiodev", "none,id=snd0")
"""What `wavcapture` needs."""

BITING = [attack for attack in ATTACKS if attack.bites]
SURE_TO_BITE = {"qmp pmemsave", "qmp migrate exec", "qmp screendump", "qmp chardev-add file", "qmp blockdev-add"}


@dataclass(frozen=True, slots=True)
class Disk:
    """What a machine boots, where its guest's writes go, and the file below that is attacked."""

    image: str
    snapshot: str
    attacked: str


RAW = Disk("disk.img", "temporary", "disk.img")
CHAIN = Disk("top.qcow2", "temporary", "bottom.qcow2")
OVERLAY = Disk("disk.qcow2", "overlay", "disk.qcow2")

DISKS = {"raw": RAW, "chain": CHAIN, "overlay": OVERLAY}

# What goes past the block layer meets the seal, which knows of no disks: one disk for all of it, others for a sample.
TRIED = {
    f"{kind}-{attack.name}": (disk, attack)
    for kind, disk in DISKS.items()
    for attack in (ATTACKS if disk is RAW else ON_DISKS + tuple(a for a in ON_FILES if a.name in SURE_TO_BITE))
}
"""Which attack is tried on which disk of a sealed machine."""


def state(path: Path) -> tuple[object, ...] | None:
    """What there is to know of a file, apart from when it was read last, which is our doing; None without a file."""
    if not path.is_file():
        return None
    found = path.stat()
    facts = (found.st_ino, found.st_mode, found.st_nlink, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return hashlib.sha256(path.read_bytes()).hexdigest(), *facts


def states(folder: Path) -> dict[str, tuple[object, ...] | None]:
    """The `state` of everything in a folder, by its name."""
    return {path.name: state(path) for path in folder.iterdir()}


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the guest `writer` on disks of several kinds."""
    folder = tmp_path_factory.mktemp("attacked")
    bootsector.write_image(folder / "disk.img", bootsector.writer(READY))
    for command in (
        "qemu-img convert -O qcow2 disk.img disk.qcow2",
        "qemu-img convert -O qcow2 disk.img bottom.qcow2",
        "qemu-img create -q -f qcow2 -F qcow2 -b bottom.qcow2 top.qcow2",
    ):
        subprocess.run(command.split(), cwd=folder, check=True)
    return folder


@pytest.fixture(params=DISKS.values(), ids=[*DISKS])
def disk(request: pytest.FixtureRequest) -> Disk:
    chosen: Disk = request.param
    return chosen


@pytest.fixture
def vm_image(images: Path, disk: Disk) -> Path:
    return images / disk.image


@pytest.fixture
def vm_snapshot(disk: Disk) -> str:
    return disk.snapshot


@pytest.fixture
def vm_ready() -> str:
    return "console:^written"


@pytest.fixture
def vm_seal() -> str:
    return "require"


@pytest.fixture
def vm_qemu_args() -> tuple[str, ...]:
    return AUDIO


@pytest.mark.parametrize(("disk", "attack"), TRIED.values(), ids=TRIED)
def test_a_sealed_machine_leaves_the_base_as_it_was(
    images: Path, disk: Disk, readonly_vm: VirtualMachine, attack: Attack
) -> None:
    before = states(images)
    attack(readonly_vm, images / disk.attacked)
    readonly_vm.close()
    assert states(images) == before


@pytest.mark.vm(seal="off")
@pytest.mark.parametrize("attack", ON_ITS_OWN_DISK, ids=lambda attack: attack.name)
def test_read_only_descriptors_alone_keep_the_disk_as_it_was(
    images: Path, disk: Disk, readonly_vm: VirtualMachine, attack: Attack
) -> None:
    before = states(images)
    attack(readonly_vm, images / disk.attacked)
    readonly_vm.close()
    assert states(images) == before


@pytest.mark.parametrize("attack", ON_ITS_OWN_DISK, ids=lambda attack: attack.name)
def test_faults_of_the_disk_leave_the_base_as_it_was(
    images: Path, disk: Disk, readonly_vm: VirtualMachine, attack: Attack
) -> None:
    before = states(images)
    own = readonly_vm.disk
    for fault in (
        own.corrupt(0, 512, may_be_unused=True),
        own.error("read", after=3, may_be_unused=True),
        own.read_only(may_be_unused=True),
        own.throttle(bandwidth="100M", may_be_unused=True),
    ):
        assert fault.is_on
    attack(readonly_vm, images / disk.attacked)
    readonly_vm.close()
    assert states(images) == before


@pytest.mark.parametrize("disk", [RAW], ids=["raw"])
def test_a_sealed_machine_cannot_open_the_disk_below_the_bases_file_system(
    images: Path, readonly_vm: VirtualMachine
) -> None:
    number = images.stat().st_dev
    device = f"/dev/block/{os.major(number)}:{os.minor(number)}"
    with pytest.raises(QmpError, match="Could not open"):
        readonly_vm.qmp.execute("blockdev-add", driver="host_device", node_name="evil", filename=device)


@pytest.mark.parametrize("disk", [RAW, OVERLAY], ids=["raw", "overlay"])
def test_a_sealed_machine_cannot_write_beside_its_own_folder(readonly_vm: VirtualMachine, tmp_path: Path) -> None:
    with pytest.raises(QmpError, match="Permission denied"):
        readonly_vm.qmp.execute("pmemsave", val=0x7C00, size=512, filename=str(tmp_path / "new"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(landlock_abi() < 6, reason="this kernel's Landlock knows of no sockets")
@pytest.mark.vm(network="none", qemu_args=[])
@pytest.mark.parametrize("disk", [RAW], ids=["raw"])
def test_a_sealed_machine_without_a_network_connects_to_no_daemon(readonly_vm: VirtualMachine) -> None:
    name = f"readonly-vm-{secrets.token_hex(8)}"
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(f"\0{name}")
        abstract.listen()
        addresses: list[dict[str, object]] = [
            {"type": "inet", "data": {"host": "127.0.0.1", "port": str(tcp.getsockname()[1])}},
            {"type": "unix", "data": {"path": name, "abstract": True}},
        ]
        for address in addresses:
            backend = {"type": "socket", "data": {"addr": address, "server": False}}
            with pytest.raises(QmpError, match=r"Permission denied|Operation not permitted"):
                readonly_vm.qmp.execute("chardev-add", id="evil", backend=backend)
        listener = {"type": "inet", "data": {"host": "127.0.0.1", "port": "0"}}
        with pytest.raises(QmpError, match="Permission denied"):
            readonly_vm.qmp.execute("nbd-server-start", addr=listener)
        for server in (tcp, abstract):
            server.setblocking(False)
            with pytest.raises(BlockingIOError):
                server.accept()


@pytest.mark.parametrize("kind", ["stat.S_IFBLK", "stat.S_IFCHR"])
def test_a_sealed_process_cannot_make_device_nodes_even_in_its_own_folder(tmp_path: Path, kind: str) -> None:
    landlock = Landlock(Bounds(folder=tmp_path, tcp=False))
    program = f"import os, stat; os.mknod('node', {kind} | 0o600, os.makedev(1, 3))"
    try:
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            stderr=subprocess.DEVNULL,
            preexec_fn=lambda: restrict_self(landlock.fd),
            check=False,
        )
    finally:
        landlock.close()
    assert done.returncode != 0
    assert list(tmp_path.iterdir()) == []


UNSEALED = """
    from pathlib import Path

    import pytest

    from tests.qemu.attacks import ATTACKS

    @pytest.fixture
    def vm_image(attack):
        return f"{attack}.img"

    @pytest.fixture
    def machine(readonly_vm):
        return readonly_vm

    @pytest.mark.parametrize("attack", {attacks})
    def test_attack(machine, vm_image, attack):
        ATTACKS[attack](machine, Path.cwd() / vm_image)

    @pytest.mark.parametrize("attack", {attacks})
    def test_after(machine, attack):
        pass

    @pytest.mark.parametrize("attack", ["bystander"])
    def test_bystander(machine, attack):
        machine.qmp.execute("query-status")
"""


@pytest.mark.parametrize(
    ("snapshot", "attacks"),
    [
        ("temporary", BITING[: len(BITING) // 2]),
        ("temporary", BITING[len(BITING) // 2 :]),
        ("overlay", [attack for attack in BITING if attack.name in SURE_TO_BITE]),
    ],
    ids=["temporary, first half", "temporary, second half", "overlay"],
)
def test_without_the_seal_exactly_the_test_that_changed_the_base_fails_and_later_ones_refuse_it(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, snapshot: str, attacks: list[Attack]
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    numbers = [ATTACKS.index(attack) for attack in attacks]
    paths = {
        str(name): bootsector.write_image(pytester.path / f"{name}.img", bootsector.writer(READY))
        for name in (*numbers, "bystander")
    }
    before = {name: state(path) for name, path in paths.items()}
    pytester.makepyfile(test_base=UNSEALED.replace("{attacks}", repr(numbers)))
    pytester.runpytest_subprocess(
        *SMALL, "--vm-ready=console:^written", "--vm-seal=off", f"--vm-snapshot={snapshot}", "--vm-start=cold",
        f"--vm-qemu-args={' '.join(AUDIO)}", "-p", "no:cacheprovider", "--junitxml=report.xml", timeout=240,
    )  # fmt: skip
    problems = read_problems(pytester.path / "report.xml")

    changed = {name for name, path in paths.items() if state(path) != before[name]}
    assert changed >= {str(ATTACKS.index(attack)) for attack in attacks if attack.name in SURE_TO_BITE}
    expected = [f"test_attack[{name}]" for name in changed] + [f"test_after[{name}]" for name in changed]
    assert sorted(problems) == sorted(expected)
    for name in changed:
        culprit = f"while test_base.py::test_attack[{name}] ran"
        assert "BaseImageChanged: the base image is no longer what it was" in problems[f"test_attack[{name}]"]
        assert str(paths[name]) in problems[f"test_attack[{name}]"]
        assert culprit in problems[f"test_attack[{name}]"]
        refusal = problems[f"test_after[{name}]"]
        if paths[name].exists():
            assert f"{paths[name]} is not used any more: {paths[name]}" in refusal
            assert culprit in refusal
        else:
            assert f"{paths[name]}: No such file or directory" in refusal
