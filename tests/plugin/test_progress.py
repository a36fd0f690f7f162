"""What somebody at a terminal sees while a guest boots and a layer is made, and that it leaves no trace."""

import itertools
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_readonly_vm.plugin.progress import _cut
from tests.conftest import SMALL
from tests.forked import PLAIN
from tests.screenful import Screenful
from tests.typist import Typist

SUITE = """
    import time
    import pytest
    from pytest_readonly_vm import layer

    @layer
    def with_user(vm, name):
        print("a layer prints")
        time.sleep(1.2)

    def test_first(): pass

    @pytest.mark.vm(layers=[with_user("alice")])
    def test_it(readonly_vm): pass

    def test_last(): pass
"""

TALKING_BIOS = ("--vm-machine=pc,graphics=off", "--vm-qemu-args=-boot menu=on,splash-time=1500")
"""The BIOS has the serial port for its screen, and waits there for a key."""

BOOTING = r"booting test_it: (\d+) s, firmware: [^\r\x1b]*(?:SeaBIOS|ESC)[^\r\x1b]*"
ANY_BOOTING = r"booting test_it: (\d+) s(?:, firmware)?: .+"
"""Also one of a busy computer, whose BIOS has yet to begin, or was slow to go on."""
LAYERING = r"making layer with_user\('alice'\): (\d+) s"


@pytest.fixture
def command(pytester: pytest.Pytester, boot_sector: Callable[[str], Path]) -> list[str]:
    pytester.makepyfile(test_a=SUITE)
    options = (f"--vm-image={boot_sector('hello')}", *SMALL, *TALKING_BIOS, "--vm-start=clone", "--vm-no-cache")
    return [sys.executable, "-m", "pytest", *options, *PLAIN]


def seen_on(rows: int, output: str) -> str:
    screen = Screenful(rows)
    screen.show(output)
    return screen.text


@pytest.mark.parametrize(
    ("text", "columns", "cut"),
    [
        ("plain", 5, "plain"),
        ("plain", 4, "plai"),
        ("日本語", 5, "日本"),
        ("e\u0301a", 2, "e\u0301a"),
        ("", 3, ""),
        ("a\tb", 3, "a b"),
    ],
)
def test_a_text_is_as_wide_as_a_terminal_shows_it(text: str, columns: int, cut: str) -> None:
    assert _cut(text, columns) == cut


@pytest.mark.parametrize(
    ("options", "rows", "before", "after"),
    [
        ((), 24, r"test_a\.py \.", r"test_a\.py \.\.\. +\[100%\]"),
        (("-v",), 4, r"test_a\.py::test_it", r"test_a\.py::test_it PASSED +\[ 66%\]\ntest_a\.py::test_last PASSED "),
    ],
    ids=["dots", "names at the end of the screen"],
)
def test_a_line_below_that_of_pytest_comes_and_goes(
    command: list[str], options: tuple[str, ...], rows: int, before: str, after: str
) -> None:
    with Typist([*command, *options], env={**os.environ, "TERM": "xterm"}) as user:
        assert user.wait() == 0
    for line in (BOOTING, LAYERING):
        match = re.search(line, user.seen)
        assert match is not None
        assert re.search(rf"^{before} *\n{line}$", seen_on(rows, user.seen[: match.end()]), re.MULTILINE)
    in_the_end = seen_on(rows, user.seen)
    assert re.search(rf"^{after}", in_the_end, re.MULTILINE)
    assert "booting test_it" not in in_the_end
    assert "making layer with_user" not in in_the_end


def test_what_a_layer_prints_and_what_is_no_terminal_have_no_such_line(
    command: list[str], pytester: pytest.Pytester
) -> None:
    # However long the boot takes, for it is not of the lines that stay.
    pytester.makeconftest("from pytest_readonly_vm.plugin import progress\nprogress._FIRST = 3600.0")
    with Typist([*command, "-s"], env={**os.environ, "TERM": "xterm"}) as user:
        user.wait_for(BOOTING)
        user.wait_for("a layer prints\r\n")
        assert user.wait() == 0
        assert "making layer with_user" not in user.seen
    with Typist(command, stdout=subprocess.PIPE) as user:
        assert user.wait() == 0
        assert user.process.stdout is not None
        said = str(user.process.stdout.read())
        assert "3 passed" in said
        assert "\\x1b" not in said
        assert "booting test_it" not in said + user.seen


@pytest.mark.parametrize(
    ("options", "begin"), [((), ""), (("-n", "1"), r"\[gw0\] "), (("-q",), None)], ids=["alone", "xdist", "quiet"]
)
def test_where_lines_stay_there_are_few_and_pytest_goes_on_below(
    command: list[str], pytester: pytest.Pytester, options: tuple[str, ...], begin: str | None
) -> None:
    # Sooner than for people.
    pytester.makeconftest("from pytest_readonly_vm.plugin import progress\nprogress._FIRST = 1.0")
    with Typist([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8") as user:
        assert user.process.stdout is not None
        said = user.process.stdout.read()
        assert user.wait() == 0
    told = [line for line in said.splitlines() if "booting test_it" in line or "making layer with_user" in line]
    if begin is None:
        assert told == []
        return
    found = [
        [int(match[1]) for line in told if (match := re.search(f"{begin}{words}$", line))]
        for words in (ANY_BOOTING, LAYERING)
    ]
    assert all(found)
    assert sum(map(len, found)) == len(told)
    assert all(later >= earlier for seconds in found for earlier, later in itertools.pairwise(seconds))
    if not options:
        assert re.search(r"^test_a\.py \.\n(?:booting .*\n)+(?:making .*\n)+\.\ntest_a\.py \. +\[100%\]$", said, re.M)


def test_a_debugger_has_the_terminal_for_itself(command: list[str], pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_a=SUITE.replace("time.sleep(1.2)", "breakpoint()"))
    quick = [option for option in command if option not in TALKING_BIOS]
    with Typist(quick, env={**os.environ, "TERM": "xterm"}) as user:
        user.wait_for(r"\(Pdb\) ")
        at = len(user.seen)
        user.type("time.sleep(1.5)\n")  # in which the line would have come
        user.wait_for(r"\(Pdb\) ")
        assert "making layer with_user" not in user.seen[at:]
        user.type("continue\n")
        assert user.wait() == 0
