"""A frozen guest is found again by the next run, is made anew when it would be another, and never fails a test."""

import hashlib
import importlib.util
import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pytest_readonly_vm import ConfigurationError, Lab, VirtualMachine, VmConfig, layer
from pytest_readonly_vm.cli import main
from pytest_readonly_vm.config.layer import GuestLayer
from pytest_readonly_vm.image import sparse
from tests.accelerator import ACCEL
from tests.conftest import READY
from tests.guests import bootsector
from tests.guests.tiny_linux import tiny_linux
from tests.mount_namespace import own_mounts
from tests.qemu.test_templates import SLOW, boots_again_from_its_own_disk
from tests.qemu.waiting import GENEROUS, eventually

ROOT = Path(__file__).parents[2]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "templates"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return bootsector.write_image(tmp_path / "base.img", bootsector.writer(READY))


Run = Callable[..., list[str]]


def runner(image: Path, cache: Path) -> Run:
    """Start machines in a lab of their own, as a run of pytest does, and tell how each that was started came to be."""

    def run(*, machines: int = 1, tell: Callable[[str], None] = print, **settings: object) -> list[str]:
        common = {"image": image, "memory": "16M", "accel": ACCEL, "ready": "console:^written", "start": "clone"}
        common["budget"] = "off"  # what is told of waiting for room is up to the suite's other runs
        config = VmConfig().replace(**{"cache": cache, "boot_timeout": GENEROUS} | common | settings)
        with Lab(tell=tell) as lab:
            for _ in range(machines):
                vm = lab.start(config, name="guest")
                if config.kernel is None:
                    boots_again_from_its_own_disk(vm)
                vm.close()
            return [boot.manner for boot in lab.boots]

    return run


@pytest.fixture
def run(image: Path, cache: Path) -> Run:
    return runner(image, cache)


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    """More runs after one that has kept a frozen guest, and the folder of that."""
    folder = tmp_path_factory.mktemp("earlier")
    run = runner(bootsector.write_image(folder / "base.img", bootsector.writer(READY)), folder / "templates")
    run()
    return run, folder / "templates"


def test_the_next_run_boots_nothing(run: Run, cache: Path) -> None:
    assert run(machines=2) == ["boot", "clone", "clone"]
    assert run(machines=2) == ["clone", "clone"]
    assert run(snapshot="overlay", keep="always") == ["clone"]  # what a test does with its machine is no matter
    assert run(no_cache=True) == ["boot", "clone"]
    assert len(list(cache.iterdir())) == 1


def test_a_layer_is_found_again_and_so_is_what_is_below_it(run: Run, tmp_path: Path) -> None:
    one, same, other = (layer_of(tmp_path / f"{name}.py", name[:3]) for name in ("one", "one_more", "other"))
    assert run(layers=one) == ["boot", "clone"]
    assert made == ["one"]
    assert run(layers=same) == ["clone"]
    assert run(layers=one(times=1)) == ["clone"]
    assert run(layers=[one, one]) == ["clone"]
    assert run(layers=other) == ["clone"]
    assert run(layers=[other, one]) == ["clone"]
    assert made == ["one", "one", "one", "oth", "one"]


def test_one_that_depends_on_files_is_made_anew_when_they_change_and_so_is_what_is_upon_it(
    run: Run, tmp_path: Path
) -> None:
    file = tmp_path / "depends" / "file"
    file.parent.mkdir()
    file.write_text("one")
    layers = [layer_of(tmp_path / "lower.py", "low", '(files=["depends"])'), layer_of(tmp_path / "upper.py", "upper")]
    assert run(layers=layers, machines=2) == ["boot", "clone", "clone"]
    assert run(layers=layers) == ["clone"]
    file.write_text("two")
    assert run(layers=layers) == ["clone"]
    assert made[-4:] == ["low", "upper"] * 2
    file.unlink()
    file.parent.rmdir()
    with pytest.raises(ConfigurationError, match=f"layers: prepared: files: {file.parent}: No such file"):
        run(layers=layers)


def test_one_that_pushes_a_file_is_made_anew_when_that_changes(cache: Path, tmp_path: Path) -> None:
    guest = tiny_linux()
    files = {"image": guest.disk, "kernel": guest.kernel, "initrd": guest.initrd, "append": guest.append}
    config = VmConfig().replace(**files, memory="256M", accel=ACCEL, boot_timeout=GENEROUS, cache=cache, start="clone")
    file = tmp_path / "file"

    @layer
    def pushed(vm: VirtualMachine) -> None:
        vm.push(file, "/root/file")
        vm.write_text("/root/count", str(counted()))

    @layer
    def read(vm: VirtualMachine) -> None:
        vm.run("cat /root/file /root/count >/root/both")

    def both() -> str:
        vm = lab.start(config.replace(layers=[pushed, read]), name="guest")
        text = vm.read_text("/root/both")
        vm.close()
        return text

    file.write_text("one")
    with Lab() as lab:
        assert both() == both() == "one1"
        file.write_text("two")  # of the same size
        assert both() == both() == "two2"
    with Lab() as lab:
        assert both() == "two2"


numbers = itertools.count(1)


def counted() -> int:
    return next(numbers)


made: list[str] = []
"""What the layers of `layer_of` have done."""


def layer_of(path: Path, word: str, arguments: str = "") -> GuestLayer:
    """A layer from a file of the user's, that has the word in its text."""
    path.write_text(
        textwrap.dedent(f"""
            from pytest_readonly_vm import layer
            from tests.qemu import test_template_cache
            @layer{arguments}
            def prepared(vm, times=0):
                test_template_cache.made.append({word!r})
        """)
    )
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: GuestLayer = module.prepared
    return found


def test_what_would_be_another_guest_boots(run: Run, image: Path, tmp_path: Path) -> None:
    run()
    for settings in (
        {"memory": "20M"},
        {"cpus": 2},
        {"machine": "q35"},
        {"channel": "shell"},
        {"qemu_args": "-device virtio-balloon-pci"},
        {"ready": "console:writte"},
    ):
        assert run(**settings) == ["boot", "clone"], settings
    os.utime(image)
    assert run() == ["boot", "clone"]
    bootsector.write_image(tmp_path / "new", bootsector.writer(READY)).rename(image)
    assert run() == ["boot", "clone"]
    assert run() == ["clone"]


def test_a_kernel_that_is_another_or_told_something_else_boots(run: Run, tmp_path: Path) -> None:
    kernel = tmp_path / "kernel"
    kernel.write_bytes(tiny_linux().kernel.read_bytes())
    settings = {"image": None, "memory": "256M", "kernel": kernel, "ready": "console:Linux version"}
    assert run(**settings, append="console=ttyS0") == ["boot", "clone"]
    assert run(**settings, append="console=ttyS0") == ["clone"]
    assert run(**settings, append="console=ttyS0 debug") == ["boot", "clone"]
    os.utime(kernel)
    assert run(**settings, append="console=ttyS0") == ["boot", "clone"]


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(content)


def believed(entry: Path, name: str, content: bytes) -> None:
    """Replace a file of an entry, and correct the manifest, so that only QEMU can find out."""
    (entry / name).chmod(0o600)
    (entry / name).write_bytes(content)
    manifest = entry / "manifest.json"
    facts, _ = json.loads(manifest.read_text())
    facts["sizes"][name], facts["digests"][name] = len(content), digest_of(entry / name)
    checksum = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    manifest.write_text(json.dumps([facts, checksum]))


def digest_of(path: Path) -> str:
    source = os.open(path, os.O_RDONLY)
    try:
        return sparse.digest(source)
    finally:
        os.close(source)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "RAM of which a bit is another": lambda entry: flipped(entry / "ram"),
    "disk of which a bit is another": lambda entry: flipped(entry / "disk0-0"),
    "state gone": lambda entry: (entry / "state").unlink(),
}
"""One for each way in which it is noticed; the unit tests of the cache have more of each."""


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_made_anew(earlier: tuple[Run, Path], damage: str) -> None:
    run, cache = earlier
    [entry] = cache.iterdir()
    DAMAGES[damage](entry)
    assert run() == ["boot", "clone"]
    assert run() == ["clone"]


@pytest.mark.parametrize(
    ("start", "is_below_a_layer", "name"),
    [("clone", False, "state"), ("clone", True, "ram"), ("auto", False, "ram"), ("auto", True, "state")],
)
def test_what_qemu_does_not_accept_is_made_anew_and_fails_no_test(
    run: Run, cache: Path, tmp_path: Path, start: str, is_below_a_layer: bool, name: str
) -> None:
    settings: dict[str, object] = {"start": start, "qemu_args": SLOW if start == "auto" else ()}
    assert run(**settings) == ["boot", "clone"]
    [entry] = cache.iterdir()
    believed(entry, name, b"not what QEMU has written" * 100)
    if is_below_a_layer:
        settings["layers"] = layer_of(tmp_path / "one.py", "one")
    run(**settings)
    assert run(**settings) == ["clone"]


def about_templates(told: list[str]) -> list[str]:
    """What was told, but for waits for room on a host that other runs have filled."""
    return [sentence for sentence in told if "frozen guest" in sentence]


def test_a_folder_that_cannot_be_used_is_told_once_and_done_without(run: Run, tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o755)
    (tmp_path / "file").touch()
    for folder, reason in (("open", "is not a folder that only you can use"), ("file/below", "cannot be used: Not a")):
        told: list[str] = []
        assert run(cache=tmp_path / folder, tell=told.append, machines=2) == ["boot", "clone", "clone"]
        [sentence] = about_templates(told)
        assert sentence.startswith(f"frozen guests are not kept for later runs: {tmp_path / folder} {reason}")


def test_one_that_is_too_big_is_not_kept(run: Run, cache: Path) -> None:
    told: list[str] = []
    assert run(cache_size="1M", tell=told.append) == ["boot", "clone"]
    [sentence] = about_templates(told)
    assert sentence.startswith("the frozen guest is not kept for later runs: it has ")
    assert sentence.endswith(" MiB, and the limit is 1 MiB")
    assert list(cache.iterdir()) == []


def test_nobody_misses_what_is_removed_while_it_is_used(run: Run, image: Path, cache: Path) -> None:
    run()
    settings = {"image": image, "memory": "16M", "accel": ACCEL, "ready": "console:^written", "start": "clone"}
    config = VmConfig().replace(**settings, cache=cache, boot_timeout=GENEROUS)
    size = sum(path.stat().st_blocks * 512 for path in cache.glob("*/*"))
    with Lab() as lab:
        vm = lab.start(config, name="guest")
        lab.start(config.replace(cpus=2, cache_size=size * 3 // 2), name="other")
        [left] = cache.iterdir()
        assert main(["cache", "clear", "--folder", str(cache)]) == 0
        assert not left.exists()
        for machine in (vm, lab.start(config, name="another")):
            boots_again_from_its_own_disk(machine)
        assert [boot.manner for boot in lab.boots] == ["clone", "boot", "clone", "clone"]


PROGRAM = """
    import sys
    from pathlib import Path
    from pytest_readonly_vm import Lab, VmConfig
    from tests.accelerator import ACCEL
    from tests.qemu.waiting import eventually

    folder = Path(sys.argv[1])

    def when_told(vm):
        vm.console.expect("^written")
        eventually((folder / "told").exists, "being told")

    settings = dict(image=folder / "base.img", memory="16M", accel=ACCEL, start="clone", boot_timeout=60, budget="off")
    with Lab(tell=lambda sentence: print(sentence, flush=True)) as lab:
        lab.start(VmConfig().replace(ready=when_told, cache=folder / "templates", **settings), name="guest")
        print(*[boot.manner for boot in lab.boots])
"""
"""A run in a process of its own; its guest is ready when a file is there."""


@pytest.fixture
def begin(image: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start `PROGRAM`, by means of another command if wanted."""
    (image.parent / "program.py").write_text(textwrap.dedent(PROGRAM))
    with ExitStack() as stack:

        def begin(*before: str) -> subprocess.Popen[str]:
            argv = [*before, sys.executable, str(image.parent / "program.py"), str(image.parent)]
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment)
            stack.callback(stack.enter_context(process).kill)
            return process

        yield begin


@pytest.mark.parametrize("sent", [None, signal.SIGKILL, signal.SIGSTOP], ids=["", "and is killed", "and is stopped"])
def test_of_two_processes_one_boots_and_the_other_waits_for_it(
    begin: Callable[..., subprocess.Popen[str]], image: Path, cache: Path, sent: signal.Signals | None
) -> None:
    one = begin()
    eventually(lambda: list(cache.glob("*.lock")), "a process at work")
    other = begin()
    assert other.stdout is not None
    assert other.stdout.readline().startswith(f"waiting for process {one.pid}, which has been making the frozen guest ")
    if sent is not None:
        one.send_signal(sent)
    if sent is signal.SIGSTOP:
        said = other.stdout.readline()
        assert said.startswith(f"process {one.pid} is stopped, by Ctrl-Z or a debugger: going on without the frozen ")
    (image.parent / "told").touch()
    assert other.communicate(timeout=GENEROUS)[0] == ("clone\n" if sent is None else "boot clone\n")
    one.send_signal(signal.SIGCONT)
    assert one.communicate(timeout=GENEROUS)[0] == ("" if sent is signal.SIGKILL else "boot clone\n")
    assert len(list(cache.iterdir())) == 1


def test_a_full_disk_is_told_and_nothing_is_left_on_it(
    begin: Callable[..., subprocess.Popen[str]], image: Path, cache: Path
) -> None:
    cache.mkdir()
    (image.parent / "told").touch()
    script = 'mount -t tmpfs -o size=256K,mode=700 small "$1" && shift && "$@"; ls -A "$3/templates"'
    process = begin(*own_mounts(), "sh", "-c", script, "sh", str(cache))
    said, _ = process.communicate(timeout=GENEROUS)
    assert said == "the frozen guest is not kept for later runs: No space left on device\nboot clone\n"
