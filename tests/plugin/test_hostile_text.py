"""What a hostile guest prints reaches no terminal and no report as it is, by whatever way it gets there."""

import re
from collections.abc import Callable

import pytest

from tests.accelerator import ACCEL
from tests.forked import PLAIN
from tests.guests.tiny_linux import tiny_linux
from tests.qemu.waiting import GENEROUS
from tests.templates import templates

Run = Callable[..., pytest.RunResult]

SUITE = r"""
    import pytest

    EVIL = r"\033]0;owned\007\033[2J\302\233[31m\342\200\256reversed\200\r\b\342\200\250EVIL"
    NAME = "/root/\x1b[2J\u202e\udc80EVIL"

    def test_streams(readonly_vm):
        readonly_vm.run(f"printf '{EVIL} out'; printf '{EVIL} err' >&2; exit 3")

    def test_one_line_of_megabytes(readonly_vm):
        readonly_vm.run("dd if=/dev/zero bs=1M count=3 | tr '\\000' x; exit 4")

    def test_a_refusal_of_a_transfer(readonly_vm):
        readonly_vm.write_text(f"{NAME}/below", "")

    def test_what_was_last_seen(readonly_vm):
        readonly_vm.write_text(f"{NAME} there", "")
        readonly_vm.wait_for_file("/root/nothing", timeout=4)

    def test_a_wait(readonly_vm):
        readonly_vm.wait_until_succeeds(f"printf '{EVIL} seen'; false", timeout=1)

    def test_a_timeout(readonly_vm):
        readonly_vm.run(f"printf '{EVIL} late'; sleep 60", timeout=1)

    def test_the_console(readonly_vm):
        readonly_vm.run(f"printf '{EVIL} console\\n' >/dev/console")
        readonly_vm.console.expect("never", timeout=0.5)

    def test_a_comparison(readonly_vm):
        assert readonly_vm.run(f"printf '{EVIL} compared'").stdout == "one\ntwo"

    def test_a_result(readonly_vm):
        assert readonly_vm.run(f"printf '{EVIL} result'; printf '{EVIL} reason' >&2; exit 1", check=False).ok

    def test_a_panic(readonly_vm):
        readonly_vm.run("echo 'panic of \x1b[2J\u202eEVIL' >/dev/kmsg; echo c >/proc/sysrq-trigger", timeout=60)
"""


def test_no_text_of_the_guest_reaches_a_terminal_as_it_is(pytester: pytest.Pytester) -> None:
    guest = tiny_linux()
    pytester.makepyfile(SUITE)
    files = (f"--vm-image={guest.disk}", f"--vm-kernel={guest.kernel}", f"--vm-initrd={guest.initrd}")
    options = (f"--vm-append={guest.append}", "--vm-memory=128M", f"--vm-accel={ACCEL}", f"--vm-cache={templates()}")
    more = (
        f"--vm-boot-timeout={GENEROUS}",
        "--vm-budget=off",
        "--tb=short",
        "--junit-xml=junit.xml",
        "--vm-report=page.html",
    )
    result = pytester.runpytest_subprocess(*files, *options, *more, *PLAIN, timeout=300)
    result.assert_outcomes(failed=10)
    everything = result.stdout.str() + result.stderr.str()
    for piece in (
        "EVIL out",
        "EVIL err",
        "EVIL seen",
        "EVIL late",
        "EVIL compared",
        "EVIL result",
        "EVIL reason",
        "EVIL console",
        "[2JEVIL/below",
        "EVIL there",
    ):
        assert piece.removeprefix("[2J") in everything
    # Of our own suite's source, which pytest shows, there is only what is printable as well.
    assert not re.search(
        r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]", everything
    )
    assert max(map(len, everything.splitlines())) < 9_000
    assert re.search(r"^(E +)?stdout: … x{400}", everything, re.MULTILINE)
    junit = (pytester.path / "junit.xml").read_text()
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e]|#x1B", junit)
    assert "\x1b" not in (pytester.path / "page.html").read_text()
    assert len(junit) < 300_000
    for overview in (pytester.path / "test-results").rglob("overview.txt"):
        assert overview.read_text().replace("\n", "").isprintable()
