"""A machine is saved to one file, and goes on from there in another process as if nothing had been."""

import gzip
import hashlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pytest_readonly_vm import ImageError, Lab, VirtualMachine, VmConfig
from pytest_readonly_vm.errors import CapsuleRefused
from pytest_readonly_vm.evidence.capsule.opened import open_capsule
from pytest_readonly_vm.evidence.capsule.resume import resume_capsule
from pytest_readonly_vm.evidence.capsule.save import save_capsule
from tests.accelerator import ACCEL
from tests.guests.debian import debian
from tests.guests.tiny_linux import tiny_linux
from tests.qemu import image_tools
from tests.qemu.test_space import run_on_a_small_disk
from tests.qemu.test_templates import boots_again_from_its_own_disk, tiny
from tests.qemu.waiting import GENEROUS
from tests.templates import templates
from tests.web_server import site

LEAVE_TRACES = "echo disk >/mnt/kept; echo memory >/root/kept; sleep 98765 >/dev/null 2>&1 </dev/null & echo $!"
LOOK = "cat /proc/uptime /mnt/kept /root/kept; cut -d' ' -f22 /proc/{pid}/stat; tr '\\0' ' ' </proc/{pid}/cmdline"
"""The second number of the uptime and the start of the process are in units of the guest's own time."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A capsule, and what was seen in the guest just before."""

    path: Path
    image: Path
    pid: str
    seen: tuple[str, ...]
    uptime: float

    def assert_same(self, output: str) -> None:
        """What is seen now is what was seen then, and only moments have passed for the guest."""
        uptime, *seen = output.split("\n")
        assert tuple(seen) == self.seen
        assert self.uptime <= float(uptime.split()[0]) < self.uptime + GENEROUS


def saved(vm: VirtualMachine, path: Path, image: Path) -> Saved:
    pid = vm.run(LEAVE_TRACES).stdout.strip()
    uptime, *seen = vm.run(LOOK.format(pid=pid)).stdout.split("\n")
    assert seen[:2] == ["disk", "memory"]
    assert seen[3] == "sleep 98765 "
    save_capsule(vm, path, test="tests/test_a.py::test_b")
    return Saved(path, image, pid, tuple(seen), float(uptime.split()[0]))


@pytest.fixture(scope="module")
def capsule(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """Of a guest that runs, on a copy of its base that no other test of the suite uses."""
    folder = tmp_path_factory.mktemp("capsule")
    image = Path(shutil.copy(tiny_linux().disk, folder / "base.qcow2"))
    with Lab() as lab:
        return saved(tiny(lab, image=image, start="cold"), folder / "one.vmcapsule", image)


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


Start = Callable[..., VirtualMachine]


@pytest.fixture
def start(lab: Lab, small: Callable[..., VmConfig]) -> Start:
    """Start the guest `writer`, or another."""

    def start(guest: str = "writer", **settings: object) -> VirtualMachine:
        ready = {"ready": "console:^written"} if guest == "writer" else {}
        return lab.start(small(guest, **{"start": "cold"} | ready | settings), name="guest")

    return start


def resumed(lab: Lab, path: Path, **options: object) -> VirtualMachine:
    with open_capsule(path) as capsule:
        return resume_capsule(lab, capsule, **options)  # type: ignore[arg-type]


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run ``readonly-vm resume`` as another user of the file would. What it leaves behind is an error."""
    code = "import sys; from pytest_readonly_vm.cli import main; sys.exit(main())"
    with tempfile.TemporaryDirectory() as tmpdir:  # as short as a socket's path wants it
        done = subprocess.run(
            [sys.executable, "-c", code, "resume", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env=os.environ | {"PYTEST_VM_TMPDIR": tmpdir},
        )
        assert [path for path in Path(tmpdir).rglob("*") if path.is_file()] == []
        return done


class TestElsewhere:
    def test_the_guest_is_where_it_was(self, capsule: Saved, tmp_path: Path) -> None:
        elsewhere = shutil.copy(capsule.image, tmp_path / "moved.qcow2")
        look = f"{LOOK.format(pid=capsule.pid)}; exit 3"
        done = command(capsule.path, "--image", elsewhere, "-c", look)
        assert done.returncode == 3, done.stderr
        capsule.assert_same(done.stdout)
        assert re.fullmatch(
            r"readonly-vm: guest of tests/test_a\.py::test_b, saved \S+ with QEMU \S+ x86_64, " + ACCEL + r"; "
            r"the guest was running\n",
            done.stderr,
        )
        assert list(tmp_path.glob("*/*/*")) == []

    def test_it_can_be_resumed_again_and_saved_again(self, lab: Lab, capsule: Saved, tmp_path: Path) -> None:
        vm = resumed(lab, capsule.path)
        assert vm.manner == "capsule"
        assert "tiny: ready" in vm.console.text
        vm.run("echo more >>/mnt/kept; sync")
        save_capsule(vm, tmp_path / "two.vmcapsule")
        assert vm.run("cat /mnt/kept").stdout == "disk\nmore\n"  # it goes on
        vm.close()
        again = resumed(lab, tmp_path / "two.vmcapsule")
        assert again.run("cat /mnt/kept").stdout == "disk\nmore\n"
        again.close()
        capsule.assert_same(resumed(lab, capsule.path).run(LOOK.format(pid=capsule.pid)).stdout)

    def test_it_has_no_network_unless_it_is_given_one(self, lab: Lab, capsule: Saved) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            connect = f"nc 10.0.2.2 {server.getsockname()[1]} </dev/null"
            vm = resumed(lab, capsule.path)
            assert vm.run(connect, check=False).exit_code != 0
            vm.run("nc -l -p 7 -e cat >/dev/null 2>&1 & until netstat -lnt | grep -q ':7 '; do sleep 0.1; done")
            with socket.create_connection(vm.forward(7), timeout=GENEROUS) as inward:  # as somebody asks for it
                inward.sendall(b"hello")
                assert inward.recv(5) == b"hello"
            vm.close()
            server.settimeout(0)
            with pytest.raises(BlockingIOError):
                server.accept()
            resumed(lab, capsule.path, network=True).run(f"{connect} >/dev/null 2>&1 &")
            server.settimeout(GENEROUS)
            server.accept()[0].close()

    def test_another_base_is_refused_by_its_hash(self, capsule: Saved, tmp_path: Path) -> None:
        other = tmp_path / "other.qcow2"
        content = bytearray(capsule.image.read_bytes())
        content[-1] ^= 1
        other.write_bytes(content)
        done = command(capsule.path, "--image", other, "-c", "true")
        assert done.returncode == 1
        assert done.stdout == ""
        hashes = re.findall(r"\b[0-9a-f]{64}\b", done.stderr)
        sums = subprocess.run(["sha256sum", other, capsule.image], capture_output=True, text=True, check=True)
        assert hashes == [line.split()[0] for line in sums.stdout.splitlines()]
        assert done.stderr.splitlines()[1].startswith(f"readonly-vm: {other} is not the base image of {capsule.path}: ")

    def test_a_base_that_is_not_there_is_asked_for(self, lab: Lab, capsule: Saved, tmp_path: Path) -> None:
        with pytest.raises(ImageError, match=r"base image .*/gone of .* is not there \(No such .*\); name it with "):
            resumed(lab, capsule.path, image=tmp_path / "gone")

    def test_a_base_that_was_in_a_store_comes_back_by_its_source(
        self, lab: Lab, capsule: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(ImageError, match=r"No such .*it was in a store of images, to which .* or name it with "):
            resumed(lab, capsule.path, image=tmp_path / ("a" * 64) / "gone")
        monkeypatch.setenv("PYTEST_VM_IMAGE_STORE", str(tmp_path / "store"))
        monkeypatch.chdir(tmp_path)
        content = capsule.image.read_bytes()
        with site() as server:
            url = f"{server.put('base.qcow2', content)}#insecure&sha256={hashlib.sha256(content).hexdigest()}"
            (tmp_path / "vm-images.toml").write_text(f'[mine]\nurl = "{url}"\nmemory = "3G"\n')
            done = command(capsule.path, "--image", "mine", "-c", LOOK.format(pid=capsule.pid))
        capsule.assert_same(done.stdout)
        assert done.stderr.splitlines()[1].startswith(f"readonly-vm: {server.url}/base.qcow2 comes by http")
        packed = tmp_path / "packed"
        packed.write_bytes(gzip.compress(content[:-1] + bytes([content[-1] ^ 1]), 1))
        with pytest.raises(ImageError, match=r"store/[0-9a-f]{64}/disk is not the base image of .*: its SHA-256 is "):
            resumed(lab, capsule.path, image=packed, local=VmConfig(image_store=tmp_path / "store"))

    def test_a_single_bit_is_noticed_before_anything_starts(self, capsule: Saved, tmp_path: Path) -> None:
        damaged = tmp_path / "damaged.vmcapsule"
        content = bytearray(capsule.path.read_bytes())
        content[len(content) // 2] ^= 1
        damaged.write_bytes(content)
        done = command(damaged, "-c", "true")
        assert (done.returncode, done.stdout) == (1, "")
        assert re.fullmatch(rf"readonly-vm: {damaged} is damaged: the SHA-256 of \S+ is another .*\n", done.stderr)
        damaged.write_bytes(content[: len(content) // 3])
        done = command(damaged, "-c", "true")
        assert (done.returncode, done.stderr) == (1, f"readonly-vm: {damaged} is truncated\n")


class TestAnyMachine:
    @pytest.mark.parametrize(
        "settings",
        [
            {},
            {"snapshot": "overlay"},
            {"start": "clone"},
            {"machine": "q35", "disk_interface": "sata"},
            {"disk_interface": "usb", "cpus": 2},
            {"network": "none", "channel": "none"},
        ],
        ids=lambda settings: " ".join(map(str, settings.values())) or "usual",
    )
    def test_it_goes_on_and_so_does_its_disk(
        self, lab: Lab, start: Start, tmp_path: Path, settings: dict[str, object]
    ) -> None:
        vm = start(**settings)
        save_capsule(vm, tmp_path / "it")
        vm.close()
        boots_again_from_its_own_disk(resumed(lab, tmp_path / "it"))

    def test_one_upon_a_backing_chain(
        self, lab: Lab, small: Callable[..., VmConfig], tmp_path: Path, boot_sector: Callable[[str], Path]
    ) -> None:
        raw = Path(shutil.copy(boot_sector("writer"), tmp_path / "raw.img"))
        top = image_tools.layer(tmp_path / "top.qcow2", "qcow2", raw, "raw")
        vm = lab.start(small(top, ready="console:^written", start="cold"), name="guest")
        save_capsule(vm, tmp_path / "it")
        with open_capsule(tmp_path / "it") as capsule:
            base = [(Path(layer.path).name, layer.format, layer.virtual_size) for layer in capsule.manifest.base]
            assert base == [("top.qcow2", "qcow2", 1 << 20), ("raw.img", "raw", 1 << 20)]
        boots_again_from_its_own_disk(resumed(lab, tmp_path / "it"))

    def test_one_without_a_disk(self, lab: Lab, tmp_path: Path) -> None:
        vm = tiny(lab, image=None, start="cold")
        vm.run("echo memory >/root/kept")
        save_capsule(vm, tmp_path / "it")
        vm.close()
        assert resumed(lab, tmp_path / "it").run("cat /root/kept").stdout == "memory\n"
        with pytest.raises(CapsuleRefused, match="without a disk"):
            resumed(lab, tmp_path / "it", image=tiny_linux().disk)

    @pytest.mark.timeout(1200)
    def test_one_with_cards_of_private_networks_has_them_still_and_they_lead_nowhere(
        self, lab: Lab, tmp_path: Path
    ) -> None:
        lan, other = (lab.networks.make(name) for name in ("lan", "other"))
        vm, near = (tiny(lab, start="clone", no_cache=False, cache=templates()) for _ in range(2))
        for network in (lan, other):
            vm.plug(network)
        vm.unplug(lan)  # so that the one which is left is not where a first one would be
        near.plug(other)
        vm.write_text("/tmp/far", address := near.address(other))
        vm.run(reach := f"ping -c1 -W{GENEROUS:g} {address}")
        seen = vm.run(look := "ip -o addr show dev eth2").stdout
        assert vm.address(other) in seen
        save_capsule(vm, tmp_path / "it")
        vm.run(reach)  # it goes on
        done = command(tmp_path / "it", "-c", f"{look}; ping -c1 -W1 {address} >/dev/null; echo $?")
        assert done.stdout == f"{seen}1\n", done.stderr
        again = resumed(lab, tmp_path / "it")
        assert again.run(look).stdout == seen
        again.plug(lan)
        assert again.interface(lan) == "eth1"
        save_capsule(again, tmp_path / "again")
        assert resumed(lab, tmp_path / "again").run("ls /sys/class/net").stdout.split() == [
            "eth0",
            "eth1",
            "eth2",
            "lo",
        ]

    def test_a_debian_in_the_middle_of_its_work(self, lab: Lab, tmp_path: Path) -> None:
        settings = {"image": debian(), "accel": ACCEL, "start": "clone", "cache": templates(), "boot_timeout": 600}
        vm = lab.start(VmConfig().replace(**settings), name="guest")
        vm.run("systemd-run --unit=busy sleep 98765; logger -t busy 'this is the failure'; echo disk >/root/kept")
        services = "ps -o pid,comm --no-headers --ppid 1; systemctl is-active busy; journalctl -q -t busy -o cat"
        look = f"cat /proc/uptime /root/kept; {services}"
        uptime, *before = vm.run(look).stdout.splitlines()
        save_capsule(vm, tmp_path / "it")
        vm.close()
        vm = resumed(lab, tmp_path / "it")
        later, *after = vm.run(look).stdout.splitlines()
        assert after == before
        assert after[-2:] == ["active", "this is the failure"]
        assert float(uptime.split()[0]) < float(later.split()[0]) < float(uptime.split()[0]) + GENEROUS
        assert vm.run("systemctl is-system-running").stdout == "running\n"


class TestAGuestThatStandsStill:
    def test_one_that_was_paused_stays_so_until_it_is_told(self, lab: Lab, capsule: Saved, tmp_path: Path) -> None:
        vm = resumed(lab, capsule.path)
        vm.pause()
        save_capsule(vm, tmp_path / "it")
        assert vm.qmp.execute("query-status")["running"] is False
        vm.resume()
        assert vm.run("echo works").stdout == "works\n"
        vm.close()
        vm = resumed(lab, tmp_path / "it")
        assert vm.qmp.execute("query-status")["status"] == "paused"
        vm.resume()
        capsule.assert_same(vm.run(LOOK.format(pid=capsule.pid)).stdout)
        vm.close()
        done = command(tmp_path / "it", "-c", "echo works")
        assert (done.returncode, done.stdout) == (1, "")
        assert "nothing runs in the guest, as it was paused; --run lets it go on" in done.stderr
        done = command(tmp_path / "it", "--run", "-c", "echo works")
        assert (done.returncode, done.stdout) == (0, "works\n")
        done = command(tmp_path / "it")
        assert done.returncode == 0
        assert "readonly-vm: monitor: qmp-shell -H " in done.stderr

    def test_one_that_has_panicked(self, lab: Lab, start: Start, tmp_path: Path) -> None:
        vm = start("panics", ready="none")
        vm.qmp.wait_event("GUEST_PANICKED", timeout=GENEROUS)
        save_capsule(vm, tmp_path / "it")
        vm.close()
        with open_capsule(tmp_path / "it") as capsule:
            assert capsule.describe().endswith("the guest was stopped by its panic")
        vm = resumed(lab, tmp_path / "it")
        assert vm.qmp.execute("query-status")["status"] == "guest-panicked"
        assert "hello" in vm.console.text

    def test_one_whose_writes_found_no_room_goes_on_where_there_is_some(
        self, lab: Lab, pytester: pytest.Pytester, tmp_path: Path
    ) -> None:
        path = tmp_path / "it"
        pytester.makepyfile(
            textwrap.dedent(f"""
            from pathlib import Path
            from pytest_readonly_vm.evidence.capsule.save import save_capsule

            def test_it(readonly_vm):
                ballast = readonly_vm.console.log_path.parent / "ballast"
                ballast.write_bytes(bytes(56 << 20))
                readonly_vm.console.send("dd if=/dev/zero of=/dev/vda bs=1M count=60 conv=fsync; echo written: $?\\n")
                readonly_vm.qmp.wait_event("BLOCK_IO_ERROR", timeout=60)
                assert readonly_vm.qmp.execute("query-status")["status"] == "io-error"
                save_capsule(readonly_vm, Path({str(path)!r}))
            """)
        )
        run_on_a_small_disk(pytester, "96m").assert_outcomes(passed=1)
        vm = resumed(lab, path)
        assert vm.qmp.execute("query-status")["status"] == "io-error"
        vm.resume()
        vm.console.expect("written: 0", timeout=GENEROUS)
