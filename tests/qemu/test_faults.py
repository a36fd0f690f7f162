"""What goes wrong with a guest is told at once and as what it is, leaves evidence, and concerns no other test."""

import json
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent, indent

import pytest

from pytest_readonly_vm import VmError
from pytest_readonly_vm.host.workspace import COOKIE
from pytest_readonly_vm.image.image_file import Fingerprint
from tests.accelerator import ACCEL
from tests.conftest import SMALL
from tests.forked import PLAIN
from tests.guests.tiny_linux import tiny_linux
from tests.guests.tiny_servers import tiny_with_servers
from tests.mount_namespace import own_mounts
from tests.qemu.faults import AT_ONCE, FAULTS
from tests.qemu.waiting import GENEROUS, eventually
from tests.templates import templates

KNOWN_OF_ALL = {"overview.txt", "console.txt", "qmp.jsonl", "timeline.jsonl", "stderr.txt", "command.sh", "config.json"}
"""The evidence of every machine, whatever has become of it."""

CONFTEST = """
    import json, linecache, threading, time
    from pathlib import Path

    import pytest

    SOON = 0.3

    struck = []

    @pytest.fixture
    def soon():
        timers = []
        def strike(function, *arguments):
            struck.append(time.time())
            function(*arguments)
        def begin(*what):
            timers.append(threading.Timer(SOON, strike, what))
            timers[-1].start()
        yield begin
        for timer in timers:
            timer.join()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(item, call):
        report = yield
        if report.failed:
            begun = struck[-1] if struck else call.start
            crash = getattr(report.longrepr, "reprcrash", None)
            met = {
                "test": item.name,
                "when": call.when,
                "error": type(call.excinfo.value).__name__,
                "message": str(call.excinfo.value),
                "line": linecache.getline(crash.path, crash.lineno) if crash else "",
                "seconds": call.stop - begun,
            }
            with Path("failures").open("a") as file:
                print(json.dumps(met), file=file)
        return report
"""

MODULE = """
import os, signal, socket, time
from conftest import struck
from pathlib import Path

import pytest

@pytest.mark.vm({settings})
def test_fault(readonly_vm, soon):
    vm = readonly_vm
{body}

def test_next(readonly_vm):
    vm = readonly_vm
    assert vm.trouble is None
{pristine}
"""


@dataclass(frozen=True, slots=True)
class Failure:
    """How a test of an inner run has failed."""

    test: str
    when: str
    error: str
    message: str
    line: str
    """The line of source that the report points at; empty if there is none."""
    seconds: float
    """Since the stroke, or since the beginning of what failed."""


class Run:
    """A pytest run in a process of its own, over now, that left nothing but its results."""

    def __init__(self, pytester: pytest.Pytester, result: pytest.RunResult) -> None:
        self.result = result
        self.output = result.stdout.str()
        self.folder = pytester.path
        lines = (self.folder / "failures").read_text().splitlines()
        self.failures = [Failure(**json.loads(line)) for line in lines]

    def evidence(self) -> Path:
        """The only folder of evidence."""
        [folder] = (mark.parent for mark in self.folder.glob("test-results/*/.readonly-vm-evidence"))
        return folder


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for temporary files, with a path as short as a socket's wants to be."""
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


@pytest.fixture
def run(pytester: pytest.Pytester, temporary: Path) -> Callable[..., Run]:
    """Run the tests of a module; fail if a process or a temporary file is left."""

    def run(module: str, *options: str, stage: str = "") -> Run:
        pytester.makeconftest(CONFTEST)
        pytester.makepyfile(test_it=module)
        if stage:
            # All in one shell, as nobody else sees what is mounted there.
            steps = (f'{stage} && {sys.executable} -m pytest "$@"', "find $TMPDIR -mindepth 2 >left")
            shell = (*own_mounts(), "sh", "-c", "; ".join(steps), "sh")
            result = pytester.run(*shell, "-p", "no:cacheprovider", *PLAIN, *options, timeout=300)
            left = (pytester.path / "left").read_text().splitlines()
        else:
            result = pytester.runpytest_subprocess(*PLAIN, *options, timeout=300)
            left = list(map(str, temporary.glob("*/*")))
        for complaint in ("INTERNALERROR", "never retrieved"):
            assert complaint not in result.stdout.str() + result.stderr.str()
        eventually(lambda: not list(emulators(temporary)), "the end of its QEMU", within=10.0)
        assert not left
        return Run(pytester, result)

    return run


def emulators(temporary: Path) -> Iterator[str]:
    """The processes of runs that have their temporary files in a folder."""
    cookie = f"{COOKIE}={temporary}/".encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if cookie in b"\0" + (process / "environ").read_bytes():
                yield process.name
        except OSError:  # it has ended meanwhile, or is another user's
            continue


def options(guest: str, boot_sector: Callable[[str], Path]) -> tuple[Path, list[str]]:
    """What to boot: the base image, and options beside."""
    if guest == "obeys":
        return boot_sector(guest), list(SMALL)
    copies = [f"--vm-cache={templates()}", "--vm-start=clone", f"--vm-accel={ACCEL}", "--vm-timeout-factor=1"]
    copies += [f"--vm-boot-timeout={5 * GENEROUS}", "--vm-budget=off"]  # no time is a wait for room
    _, _, server = guest.partition("-")
    tiny = tiny_with_servers() if server else tiny_linux()
    files = [f"--vm-kernel={tiny.kernel}", f"--vm-initrd={tiny.initrd}", f"--vm-append={tiny.append}"]
    size = [f"--vm-channel={server}", "--vm-memory=256M"] if server else ["--vm-memory=128M"]
    return tiny.disk, [*copies, *files, *size]


@pytest.mark.parametrize("name", FAULTS)
def test_faults(run: Callable[..., Run], boot_sector: Callable[[str], Path], name: str) -> None:
    fault = FAULTS[name]
    image, others = options(fault.guest, boot_sector)
    before = Fingerprint.of(image.stat())
    settings = f"{fault.settings}, image={str(boot_sector(fault.sector))!r}" if fault.sector else fault.settings
    bodies = {"body": fault.body, "pristine": fault.pristine}
    inside = {name: indent(dedent(text).strip("\n"), "    ") for name, text in bodies.items()}
    module = MODULE.format(settings=settings, **inside)
    ran = run(module, f"--vm-image={image}", *others, stage=fault.stage)

    ran.result.assert_outcomes(passed=1, **{"errors" if fault.is_met_in_setup else "failed": 1})
    [failure] = ran.failures
    assert failure.test == "test_fault"
    assert failure.when == ("setup" if fault.is_met_in_setup else "call")
    assert failure.error == fault.error.__name__, failure.message
    assert re.fullmatch(f"(test_fault: )?{fault.words}", failure.message)
    assert failure.line.endswith("# met\n") or fault.is_met_in_setup
    assert failure.seconds < fault.within

    evidence = ran.evidence()
    assert evidence.name.startswith("test_it.py-test_fault-")
    assert {path.name for path in evidence.iterdir()} >= KNOWN_OF_ALL | set(fault.tells)
    for piece, pattern in fault.tells.items():
        assert re.search(pattern, (evidence / piece).read_text(errors="replace")), piece
    overview = (evidence / "overview.txt").read_text()
    if issubclass(fault.error, VmError):  # before a timeout's failure it is saved
        assert failure.message.partition("\n")[0] in overview
    assert re.search(fault.lacks, overview)
    assert Fingerprint.of(image.stat()) == before


BASE = """
    import os, subprocess

    import pytest

    def test_first(readonly_vm, vm_image):
        subprocess.run(os.environ["LOSS"], shell=True, check=True)
        readonly_vm.console.send("x")
        readonly_vm.console.expect("x")

    def test_second(readonly_vm): pass
    def test_third(readonly_vm): pass

    @pytest.mark.vm(image="other.img")
    def test_with_another(readonly_vm):
        readonly_vm.console.send("x")
        readonly_vm.console.expect("x")
"""

MOUNT = "mount -t tmpfs none away && cp other.img away/base.img"
CHAIN = "qemu-img create -q -f qcow2 -F raw -b away/base.img top.qcow2"


@pytest.mark.parametrize(
    ("image", "stage", "loss", "words", "later"),
    [
        (
            "base.img",
            "cp other.img base.img",
            "cp other.img new && mv new base.img",
            "base.img was replaced by another file",
            "{image} is not used any more: ",
        ),
        (
            "away/base.img",
            MOUNT,
            "umount --lazy away",
            "away/base.img can no longer be found (No such file or directory)",
            "--vm-image: image: {image}: No such file or directory",
        ),
        (
            "top.qcow2",
            f"{MOUNT} && {CHAIN}",
            "umount --lazy away",
            "away/base.img can no longer be found (No such file or directory)",
            "{image} is not used any more: ",
        ),
    ],
    ids=["replaced", "on a vanished mount", "backed by a file on a vanished mount"],
)
def test_a_base_that_is_lost_in_a_test_fails_this_one_and_later_ones_at_once(
    run: Callable[..., Run],
    boot_sector: Callable[[str], Path],
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    image: str,
    stage: str,
    loss: str,
    words: str,
    later: str,
) -> None:
    shutil.copy(boot_sector("obeys"), pytester.path / "other.img")
    pytester.mkdir("away")
    monkeypatch.setenv("LOSS", loss)
    ran = run(dedent(BASE), f"--vm-image={image}", *SMALL, stage=stage)

    ran.result.assert_outcomes(passed=2, errors=3)
    first, *others = ran.failures
    what = f"{pytester.path}/{words} while test_it.py::test_first ran"
    assert (first.test, first.when, first.error) == ("test_first", "teardown", "BaseImageChanged")
    assert first.message == f"the base image is no longer what it was: {what}"
    assert [(failure.test, failure.when) for failure in others] == [("test_second", "setup"), ("test_third", "setup")]
    for failure in others:
        assert failure.message.startswith(later.format(image=pytester.path / image))
        assert failure.seconds < AT_ONCE
    assert f"BASE IMAGE CHANGED: {what}" in ran.output
    assert "the base image is no longer what it was" in (ran.evidence() / "overview.txt").read_text()
