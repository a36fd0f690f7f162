"""While a debugger is open the guest stands still, and there are ways into it; afterwards it goes on."""

import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import SMALL
from tests.forked import PLAIN
from tests.typist import Typist

FAILS = """
    def test_it(readonly_vm):
        assert readonly_vm.qmp.execute("query-status")["running"]
        assert 1 == 2
"""

STOPS = """
    def test_it(readonly_vm):
        readonly_vm.debug()
        where = "here"
        assert readonly_vm.qmp.execute("query-status")["running"]
"""

# Since Python 3.13 a debugger shows the line that asks for it, and not the next.
STOPPED_AT = r"-> readonly_vm\.debug\(\)" if sys.version_info >= (3, 13) else '-> where = "here"'


@pytest.fixture
def debug(pytester: pytest.Pytester, boot_sector: Callable[[str], Path]) -> Callable[..., Typist]:
    """Run pytest at a terminal, on a boot-sector guest."""

    def run(*arguments: str) -> Typist:
        command = [sys.executable, "-m", "pytest", f"--vm-image={boot_sector('hello')}", *SMALL, *PLAIN]
        return Typist([*command, "--color=no", *arguments])

    return run


def test_a_failure_opens_ways_in_and_stops_the_guest(pytester: pytest.Pytester, debug: Callable[..., Typist]) -> None:
    pytester.makepyfile(FAILS)
    with debug("--pdb") as user:
        user.wait_for(r"test_it: QEMU is process \d+, its folder (\S+)\s")
        user.wait_for(r"root shell: none: the guest does not answer")
        user.wait_for(r"ssh: ")
        display = shlex.split(user.wait_for(r"display: (vncviewer \S+)\s")[1])
        gdb = user.wait_for(r"gdb: gdb -ex 'target remote (\S+)'")[1]
        user.wait_for(r"test_it stands still while the debugger is open")
        user.wait_for(r"\(Pdb\) ")
        assert Path(display[1]).is_socket()
        assert Path(gdb).is_socket()
        user.type("readonly_vm.qmp.execute('query-status')['status']\n")
        user.wait_for("'paused'")
        user.wait_for(r"\(Pdb\) ")
        user.type("continue\n")
        user.wait_for("1 failed")
        assert user.wait() == 1
    assert not Path(gdb).exists()


def test_a_test_stops_where_it_asks_to_and_goes_on(pytester: pytest.Pytester, debug: Callable[..., Typist]) -> None:
    pytester.makepyfile(STOPS)
    with debug() as user:
        user.wait_for("test_it stands still while the debugger is open")
        user.wait_for(STOPPED_AT)
        user.wait_for(r"\(Pdb\) ")
        user.type("continue\n")
        user.wait_for("1 passed")
        assert user.wait() == 0


def test_a_test_without_a_machine_is_debugged_as_ever(pytester: pytest.Pytester, debug: Callable[..., Typist]) -> None:
    pytester.makepyfile("def test_it(): breakpoint()")
    with debug() as user:
        user.wait_for(r"\(Pdb\) ")
        assert "QEMU is process" not in user.seen
        user.type("continue\n")
        user.wait_for("1 passed")
