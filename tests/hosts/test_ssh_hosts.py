"""Runs whose workers are on two hosts, with real SSH servers: what passes, what fails, what dies, what is refused."""

import hashlib
import re
import signal
import venv
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest

from pytest_readonly_vm.evidence.capsule.save import SUFFIX
from pytest_readonly_vm.host.seal import landlock_abi
from tests.conftest import SMALL
from tests.hosts.deprived import python_without_kvm, python_without_landlock
from tests.hosts.ssh_hosts import Pair, SshHost, pair_of_hosts
from tests.nbd import Nbdkit
from tests.qemu.inner_run import InnerRun
from tests.qemu.waiting import eventually
from tests.web_server import site

PATIENCE = 300.0
"""Seconds for a run: it starts four Pythons, or five, each of which loads pytest, on a computer with other work."""

INI = "[pytest]\n"
TEST = """
import os, pytest, time
from pathlib import Path

@pytest.mark.parametrize("number", range(6))
def test_it(readonly_vm, number):
    assert number != 3

def test_without(): pass
"""


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with pair_of_hosts(tmp_path_factory.mktemp("hosts")) as pair:
        yield pair


@pytest.fixture
def hello(boot_sector: Callable[[str], Path]) -> bytes:
    return boot_sector("hello").read_bytes()


@contextmanager
def over(
    hosts: Pair, tmp_path: Path, *specs: str, options: tuple[str, ...] = (), machine: tuple[str, ...] = SMALL
) -> Iterator[InnerRun]:
    given = [word for spec in specs for word in ("--tx", spec)]
    with InnerRun(hosts.controller, *given, "--dist=load", *machine, *options, temporary=tmp_path) as run:
        yield run


def nothing_is_left(hosts: Pair) -> None:
    for host in hosts:
        eventually(partial(_is_clean, host), f"nothing is left on {host.name}")


def _is_clean(host: SshHost) -> bool:
    return not host.left()


def _is_idle(host: SshHost) -> bool:
    return not host.processes()


def _has_begun(run: InnerRun, busy: Path) -> bool:
    return busy.exists() or run.is_over()


def lines(run: InnerRun, pattern: str) -> list[str]:
    return [line for line in run.output.splitlines() if re.search(pattern, line)]


def test_a_run_over_two_hosts_is_like_one_on_this(hosts: Pair, tmp_path: Path, hello: bytes) -> None:
    with site() as web:
        url = web.put("hello.img", hello)
        digest = hashlib.sha256(hello).hexdigest()
        listed = f'[tiny]\nurl = "{url}#insecure"\ndigest = "sha256:{digest}"\nformat = "raw"\n'
        hosts.put({"pytest.ini": INI, "test_it.py": TEST, "vm-images.toml": listed})
        unable = hosts.second.spec(more="//env:PYTEST_VM_QEMU=/none/qemu")
        options: tuple[str, ...] = (
            "--vm-image=tiny",
            "--vm-start=clone",
            "--vm-capsule=on-failure",
            "--vm-report=page.html",
        )
        options += (f"--junitxml={hosts.controller / 'junit.xml'}", "test_it.py")
        able = (hosts.first.spec(2), hosts.second.spec(2, python=f"{python_without_landlock(tmp_path)}"))
        with over(hosts, tmp_path, *able, unable, options=(*options, "test_it.py")) as run:
            assert run.wait(PATIENCE) == pytest.ExitCode.TESTS_FAILED, run.output
        assert len(web.requests("hello.img")) == len(tuple(hosts))  # each brings it once, whatever its workers
    assert lines(run, r"^=+ 1 failed, 6 passed")
    # Each host has said with what it runs, boots once for its two workers, and is told apart at the end.
    for host in hosts:
        assert lines(run, rf"^{host.name}: vm: QEMU .*")
        landlock = r"Landlock \d" if host is hosts.first and landlock_abi() else "no Landlock"
        assert lines(run, rf"^{host.name}: vm: seal: read-only descriptors, {landlock}, ")
        assert lines(run, rf"^{host.name}: 1 machine booted in ")
        assert lines(run, rf"^{host.name}: 2 workers, \d tests? in ")
        assert (host.cache / "images").is_dir()
    assert lines(run, r"^hostB is not used: /none/qemu \(from PYTEST_VM_QEMU\) is not installed: on Debian ")
    # What failed is told here, with its capsule, and where it was.
    (folder,) = [path for path in (hosts.controller / "test-results").iterdir() if path.is_dir()]
    assert lines(run, rf"^test-results/{folder.name}$")
    assert (folder / f"machine{SUFFIX}").stat().st_size > 0
    assert re.search(r"^host: +host[AB]$", (folder / "overview.txt").read_text(), re.MULTILINE)
    assert re.search(r"test_it\[\d\] on hostA", (hosts.controller / "page.html").read_text())
    assert 'name="vm_host" value="hostB"' in (hosts.controller / "junit.xml").read_text()
    nothing_is_left(hosts)


SLOW = """
import os, pytest, time
from pathlib import Path

@pytest.mark.parametrize("number", range(4))
def test_it(readonly_vm, number):
    here = Path("host").read_text()
    if here == "hostA":
        Path("busy").write_text(f"{os.getpid()} {readonly_vm.pid}")
        time.sleep(600)
"""


def test_a_host_that_is_cut_off_without_a_word_is_given_up(hosts: Pair, tmp_path: Path, hello: bytes) -> None:
    hosts.put({"pytest.ini": INI, "test_it.py": SLOW, "hello.img": hello, "host": "hostB"})
    (hosts.first.checkout / "host").write_text("hostA")
    busy = hosts.first.checkout / "busy"
    sooner = "-o ServerAliveInterval=5 -o ServerAliveCountMax=3"
    specs = (hosts.first.spec(ssh=sooner), hosts.second.spec())
    with over(hosts, tmp_path, *specs, options=("--vm-image=hello.img", "--max-worker-restart=5")) as run:
        eventually(lambda: busy.exists() or run.is_over(), f"a test runs\n{run.output}", within=PATIENCE)
        (hosts.first.checkout / "host").write_text("hostB")
        with hosts.first.silence():
            assert run.wait(PATIENCE) == pytest.ExitCode.TESTS_FAILED, run.output
    assert lines(run, r"^=+ 1 failed, 3 passed"), run.output
    assert lines(run, r"^worker 'gw\d+' crashed while running 'test_it.py::test_it\[\d\]' on hostA$")
    busy.unlink()
    nothing_is_left(hosts)


@pytest.mark.parametrize("ending", ["hang up", "stop"])
def test_a_connection_or_a_host_that_dies_ends_its_workers_and_not_the_run(
    hosts: Pair, tmp_path: Path, hello: bytes, ending: str
) -> None:
    hosts.put({"pytest.ini": INI, "test_it.py": SLOW, "hello.img": hello, "host": "hostB"})
    (hosts.first.checkout / "host").write_text("hostA")
    options = ("--vm-image=hello.img", "-v", "--max-worker-restart=5")
    busy = hosts.first.checkout / "busy"
    with over(hosts, tmp_path, *(host.spec() for host in hosts), options=options) as run:
        eventually(lambda: busy.exists() or run.is_over(), f"a test runs\n{run.output}", within=PATIENCE)
        worker, emulator = map(int, eventually(busy.read_text, "who it is").split())
        (hosts.first.checkout / "host").write_text("hostB")  # nothing is slow from now on
        if ending == "stop":
            hosts.first.stop()
        else:
            hosts.first.hang_up()
        eventually(lambda: not alive(worker) and not alive(emulator), "the worker ends with its machine")
        busy.unlink()
        try:
            assert run.wait(PATIENCE) == pytest.ExitCode.TESTS_FAILED, run.output
        finally:
            if ending == "stop":
                hosts.first.start()
    assert lines(run, r"^=+ 1 failed, 3 passed"), run.output
    assert lines(run, r"^worker 'gw\d+' crashed while running 'test_it.py::test_it\[\d\]' on hostA$")
    assert bool(lines(run, r"^vm: hostA is gone: .*refused.*; what its worker had to do goes to hostB")) == (
        ending == "stop"
    )
    nothing_is_left(hosts)


def alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_a_controller_that_is_killed_leaves_nothing_on_hosts(hosts: Pair, tmp_path: Path, hello: bytes) -> None:
    hosts.put({"pytest.ini": INI, "test_it.py": SLOW, "hello.img": hello, "host": "hostA"})
    with over(hosts, tmp_path, *(host.spec() for host in hosts), options=("--vm-image=hello.img",)) as run:
        for host in hosts:
            busy = host.checkout / "busy"
            eventually(partial(_has_begun, run, busy), f"a test runs\n{run.output}", within=PATIENCE)
        run.send(signal.SIGKILL)
        for host in hosts:
            eventually(partial(_is_idle, host), f"{host.name} runs nothing any more")
            (host.checkout / "busy").unlink()
    nothing_is_left(hosts)


MARKED = "".join(
    f"""
import pytest
@pytest.mark.vm(image="disk.img")
def test_{number}(readonly_vm): pass
"""
    for number in range(4)
)


@pytest.mark.parametrize("given", ["for the run", "by markers", "on the network"])
def test_hosts_with_different_bases_end_the_run_and_are_named(
    hosts: Pair, tmp_path: Path, hello: bytes, given: str
) -> None:
    """No test runs on two hosts, so a marker of one test alone is on one of them."""
    hosts.put({"pytest.ini": INI, "test_it.py": MARKED if given == "by markers" else TEST})
    contents, specs, places = (hello, hello[:-1] + b"\1"), [], []
    with ExitStack() as servers:
        for host, content in zip(hosts, contents, strict=True):
            place = (host.checkout if given == "by markers" else host.folder) / "disk.img"
            place.write_bytes(content)
            image = str(place)
            if given == "on the network":
                server = Nbdkit(host.folder / "nbd.sock", place)
                server.start()
                servers.callback(server.vanish)
                (host.checkout / "vm-images.toml").write_text(
                    f'[tiny]\nurl = "{server.url}"\ndigest = "sha256:{hashlib.sha256(content).hexdigest()}"\n'
                )
                image = "tiny"
            specs.append(host.spec(more="" if given == "by markers" else f"//env:PYTEST_VM_IMAGE={image}"))
            places.append(server.url if given == "on the network" else str(place))
        with over(hosts, tmp_path, *specs) as run:
            assert run.wait(PATIENCE) not in (pytest.ExitCode.OK, pytest.ExitCode.INTERNAL_ERROR), run.output
    (told,) = lines(run, "^BASES DIFFER: ")
    for host, content, where in zip(hosts, contents, places, strict=True):
        assert f"{host.name} has {where} (SHA-256 {hashlib.sha256(content).hexdigest()[:12]}…)" in told
    for host in hosts:
        (host.folder / "nbd.sock").unlink(missing_ok=True)
        host.put({})
    nothing_is_left(hosts)


def test_images_of_one_name_in_two_folders_are_two(hosts: Pair, tmp_path: Path, hello: bytes) -> None:
    hosts.put({"pytest.ini": INI, "test_it.py": OF_ONE_NAME})
    for name, content in (("one", hello), ("two", hello[:-1] + b"\1")):
        (tmp_path / "images" / name).mkdir(parents=True)
        (tmp_path / "images" / name / "box.img").write_bytes(content)
    specs = [host.spec(more=f"//env:IMAGES={tmp_path / 'images'}") for host in hosts]
    with over(hosts, tmp_path, *specs) as run:
        assert run.wait(PATIENCE) == pytest.ExitCode.OK, run.output
    nothing_is_left(hosts)


OF_ONE_NAME = """
import os, pytest

@pytest.fixture(params=["one", "two"])
def vm_image(request): return f"{os.environ['IMAGES']}/{request.param}/box.img"

@pytest.mark.parametrize("number", range(2))
def test_it(readonly_vm, number): pass
"""


def test_a_host_whose_workers_end_before_they_have_tests_is_given_up(hosts: Pair, tmp_path: Path, hello: bytes) -> None:
    hosts.put({"pytest.ini": INI, "test_it.py": "def test_it(readonly_vm): pass", "hello.img": hello})
    ends = "import os\ndef pytest_sessionstart(session): os._exit(3)"
    (hosts.first.checkout / "conftest.py").write_text(ends)
    options = ("--vm-image=hello.img", "-v")
    with over(hosts, tmp_path, *(host.spec() for host in hosts), options=options) as run:
        assert run.wait(PATIENCE) == pytest.ExitCode.OK, run.output
    assert len(lines(run, r"^\[gw\d+\] node down: ")) == 3, run.output  # xdist itself would go on for ever
    assert lines(run, r"^vm: hostA is gone: a worker ended there before it had collected tests: .* goes to hostB$")
    (hosts.first.checkout / "conftest.py").unlink()
    nothing_is_left(hosts)


def test_what_failed_is_known_to_hosts_which_were_not_there(hosts: Pair, tmp_path: Path) -> None:
    test = "import pytest\n@pytest.mark.parametrize('n', range(6))\ndef test_it(n): assert n not in (2, 4)\n"
    hosts.put({"pytest.ini": INI, "test_it.py": test})
    cache = hosts.controller / ".pytest_cache/v/cache"
    cache.mkdir(parents=True)
    (cache / "lastfailed").write_text('{"test_it.py::test_it[2]": true, "test_it.py::test_it[4]": true}')
    elsewhere = hosts.second.checkout / ".pytest_cache/v/cache"
    elsewhere.mkdir(parents=True)
    (elsewhere / "lastfailed").write_text('{"test_it.py::test_it[5]": true}')
    with over(hosts, tmp_path, *(host.spec() for host in hosts), options=("--lf", "-p", "cacheprovider")) as run:
        assert run.wait(PATIENCE) == pytest.ExitCode.TESTS_FAILED, run.output
    assert lines(run, r"^=+ 2 failed[, ]"), run.output
    hosts.put({})


def test_hosts_with_different_checkouts_are_named(hosts: Pair, tmp_path: Path) -> None:
    hosts.put({"pytest.ini": INI, "test_it.py": TEST})
    (hosts.second.checkout / "test_it.py").write_text(f"{TEST}\ndef test_more(): pass\n")
    with over(hosts, tmp_path, *(host.spec() for host in hosts)) as run:
        assert run.wait(PATIENCE) == pytest.ExitCode.USAGE_ERROR, run.output
    assert lines(run, r"host[AB] has \d tests, and host[AB] \d tests, which differ in test_it.py::test_more: both are")


def test_tests_without_machines_need_no_plugin_there(hosts: Pair, tmp_path: Path) -> None:
    """Of the first host that has none, all tests are run by it, and with settings it would be left out."""
    hosts.put({"pytest.ini": "[pytest]", "test_it.py": "def test_it(): pass"})
    without = tmp_path / "without"
    venv.create(without, with_pip=False)
    packages = next(without.glob("lib/python*/site-packages"))
    here = Path(pytest.__file__).parents[1]
    for name in ("pytest", "_pytest", "py.py", "xdist", "execnet", "pluggy", "iniconfig", "packaging", "pygments"):
        (packages / name).symlink_to(here / name)
    for about in ("pytest-*", "pytest_xdist-*", "execnet-*", "pluggy-*"):
        [found] = here.glob(f"{about}.dist-info")
        (packages / found.name).symlink_to(found)
    spec = hosts.first.spec(python=f"{without}/bin/python")
    for options, ending in (((), pytest.ExitCode.OK), (("--vm-memory=16M",), pytest.ExitCode.USAGE_ERROR)):
        with over(hosts, tmp_path, spec, machine=options) as run:
            assert run.wait(PATIENCE) == ending, run.output
    assert lines(run, "pytest-readonly-vm is not installed for ")
    nothing_is_left(hosts)


def test_a_host_that_cannot_take_part_says_why_in_a_sentence(hosts: Pair, tmp_path: Path) -> None:
    hosts.put({"pytest.ini": INI, "test_it.py": TEST})
    first, second = hosts
    bare, other, broken = tmp_path / "bare", tmp_path / "other", tmp_path / "broken"
    no_kvm, no_landlock = str(python_without_kvm(tmp_path)), str(python_without_landlock(tmp_path))
    venv.create(bare, with_pip=False)
    for folder in (other, broken):
        folder.mkdir()
    known = other / "pytest_readonly_vm-9.9.dist-info"
    known.mkdir()
    (known / "METADATA").write_text("Metadata-Version: 2.1\nName: pytest-readonly-vm\nVersion: 9.9\n")
    (broken / "conftest.py").write_text("import nothing_of_this_name")
    closed = SshHost("hostC", tmp_path, tmp_path / "closed", first.key)
    (tmp_path / "host_key.pub").write_text((first.folder / "host_key.pub").read_text())
    (tmp_path / "host_key").touch()
    closed.config.write_text(closed.describe())
    expected = {
        first.spec(chdir=tmp_path / "none"): "/none: No such file or directory; name the folder of the checkout there",
        first.spec(python="python0"): "there is no python0 (",
        first.spec(python=f"{bare}/bin/python"): "pytest is not installed for ",
        first.spec(chdir=other): "it has pytest-readonly-vm 9.9, and here is ",
        first.spec(chdir=broken): "No module named 'nothing_of_this_name'",
        second.spec(more="//env:PYTEST_VM_QEMU=/none/qemu"): "/none/qemu (from PYTEST_VM_QEMU) is not installed: on ",
        second.spec(python=no_kvm, more="//env:PYTEST_VM_ACCEL=kvm"): "accel=kvm (from PYTEST_VM_ACCEL) cannot be had",
        second.spec(python=no_landlock, more="//env:PYTEST_VM_SEAL=require"): "this kernel has no Landlock",
        second.spec(more="//env:PYTEST_VM_NOTHING=1"): "PYTEST_VM_NOTHING in the environment is no setting",
        closed.spec(chdir=first.checkout): "ssh cannot log in: ssh: connect to host 127.0.0.1 port ",
    }
    with over(hosts, tmp_path, *expected, options=("-v",), machine=()) as run:
        assert run.wait(PATIENCE) == pytest.ExitCode.USAGE_ERROR, run.output
    told = lines(run, r"^vm: host[ABC] is not used: ")
    assert len(told) == len(expected), run.output
    for sentence in expected.values():
        assert any(sentence in line for line in told), (sentence, run.output)
    assert not lines(run, "INTERNALERROR")
    nothing_is_left(hosts)
