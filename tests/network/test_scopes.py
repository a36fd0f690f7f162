"""Networks in runs of their own: whose they are, how long they live, and that nothing of them is left."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.accelerator import ACCEL
from tests.guests.tiny_linux import tiny_linux
from tests.qemu.inner_run import InnerRun
from tests.qemu.waiting import as_promised
from tests.templates import templates


def tiny() -> list[str]:
    """Options for the tiny Linux, from copies."""
    guest = tiny_linux()
    return [
        f"--vm-image={guest.disk}", f"--vm-kernel={guest.kernel}", f"--vm-initrd={guest.initrd}",
        f"--vm-append={guest.append}", "--vm-memory=128M", f"--vm-accel={ACCEL}", f"--vm-cache={templates()}",
        "--vm-budget=off",
    ]  # fmt: skip


GONE = """
    from pathlib import Path

    def is_gone(pid):
        return not Path(f"/proc/{pid}/cmdline").exists()
"""


def test_a_network_lives_as_long_as_what_it_is_for(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(GONE.replace("\n    ", "\n"))
    pytester.makepyfile(
        test_one="""
            import pytest
            from conftest import is_gone

            seen = {}

            class TestOfAClass:
                def test_first(self, vm_private_network, vm_private_network_class, vm_private_network_module,
                               vm_private_network_session):
                    for scope, make in (("function", vm_private_network), ("class", vm_private_network_class),
                                        ("module", vm_private_network_module), ("session", vm_private_network_session)):
                        seen[scope] = make("lan").pid
                        assert make("lan").pid == seen[scope]
                    assert len(set(seen.values())) == 4

                def test_second(self, vm_private_network, vm_private_network_class):
                    assert is_gone(seen["function"])
                    assert vm_private_network("lan").pid != seen["function"]
                    assert vm_private_network_class("lan").pid == seen["class"]

            def test_third(vm_private_network_module, vm_private_network_class, request):
                assert is_gone(seen["class"])
                assert vm_private_network_module("lan").pid == seen["module"]
                with pytest.raises(pytest.UsageError, match="is there already, with other options"):
                    vm_private_network_module("lan", mtu=9000)
                request.config.seen = seen
        """,
        test_two="""
            from conftest import is_gone

            def test_fourth(vm_private_network_session, request):
                seen = request.config.seen
                assert is_gone(seen["module"])
                assert vm_private_network_session("lan").pid == seen["session"]
        """,
    )
    result = pytester.runpytest_subprocess(*tiny())
    result.assert_outcomes(passed=4)


def test_machines_that_are_shared_are_on_networks_that_are_and_others_come_and_go(pytester: pytest.Pytester) -> None:
    module = """
        from conftest import is_gone

        def test_it(readonly_vm_package, vm_private_network_package, readonly_vm_factory, request):
            lan = vm_private_network_package("lan")
            known = request.config.stash.setdefault(lan_of_all, (lan.pid, readonly_vm_package.pid))
            assert known == (lan.pid, readonly_vm_package.pid)
            one, two = (readonly_vm_factory(networks=[lan]), readonly_vm_factory(name="the other", networks=lan))
            assert list(lan.hosts) == ["vm", "vm-2", "the-other"]
            one.run("ping -c1 -W60 vm && ping -c1 -W60 the-other")
            readonly_vm_package.run("ping -c1 -W60 vm-2 && ping -c1 -W60 the-other")
    """
    shared = "import pytest\n@pytest.fixture(scope='session')\ndef vm_networks(): return ['lan']\n"
    pytester.makeconftest(GONE.replace("\n    ", "\n"))
    package = pytester.mkpydir("package")
    (package / "conftest.py").write_text(shared)
    lines = module.replace("\n        ", "\n").replace("lan_of_all", "key")
    for name in ("one", "two"):
        (package / f"test_{name}.py").write_text(f"from package.key import key\n{lines}")
    (package / "key.py").write_text("import pytest\nkey = pytest.StashKey()\n")
    pytester.makepyfile(
        test_z_after="""
            from conftest import is_gone
            from package.key import key

            def test_after(request):
                assert is_gone(request.config.stash[key][0])

            def test_by_name(readonly_vm_factory, vm_private_network):
                one = readonly_vm_factory(name="session", networks=["lan", "other"])
                two = readonly_vm_factory(name="2", networks="lan")
                assert list(vm_private_network("lan").hosts) == ["session", "2"]
                two.run("ping -c1 -W60 session")
                assert one.address(vm_private_network("other")) != one.address(vm_private_network("lan"))
        """
    )
    result = pytester.runpytest_subprocess(*tiny())
    result.assert_outcomes(passed=4)


def test_workers_have_networks_of_their_own_with_the_same_addresses(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import pytest

        @pytest.mark.parametrize("me", ["a", "b", "c", "d"])
        def test_it(me, readonly_vm_factory, vm_private_network, worker_id):
            lan = vm_private_network("lan")
            one, two = (readonly_vm_factory(name=name, networks=[lan]) for name in ("one", "two"))
            assert (str(lan.subnet), two.address(lan)) == ("10.77.0.0/24", "10.77.0.11")
            two.run(f"(while :; do nc -l -p 7 -e echo {me}; done) >/dev/null 2>&1 &")
            one.wait_until_succeeds("nc -w 60 two 7 >/tmp/heard </dev/null")
            assert one.read_text("/tmp/heard") == f"{me}\\n"
            assert two.manner == "clone"
    """)
    result = pytester.runpytest_subprocess(*tiny(), "-n2", "--dist=load")
    result.assert_outcomes(passed=4)


def test_a_machine_that_was_started_ahead_comes_on_its_networks(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import time
        import pytest

        pytestmark = pytest.mark.vm(networks="lan")

        @pytest.mark.parametrize("number", [1, 2, 3])
        def test_it(number, readonly_vm, readonly_vm_factory, vm_private_network):
            lan = vm_private_network("lan")
            other = readonly_vm_factory(name="other")
            other.run("ping -c1 -W60 vm")
            assert readonly_vm.address(lan) == "10.77.0.10"
            assert [entry.what for entry in readonly_vm.history.entries() if entry.kind == "network"] == [
                "plugged into lan"
            ]
            if number > 1:
                assert readonly_vm.seconds_since_start() > readonly_vm.boot_seconds
            readonly_vm.reset()
            other.run("ping -c1 -W60 vm")
            time.sleep(0.5)  # in which the next one is started
    """)
    result = pytester.runpytest_subprocess(*tiny())
    result.assert_outcomes(passed=3)


def test_a_machine_that_cannot_come_on_its_network_leaves_evidence_and_nothing_else(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import os
        from pathlib import Path
        import pytest
        from pytest_readonly_vm import layer

        @layer
        def without_sysfs(vm):
            vm.run("umount /sys")

        @pytest.mark.vm(networks="lan", layers=without_sysfs, timeout_factor=0.1)
        def test_it(readonly_vm): pass

        def test_after():
            tasks = [Path(entry, "cmdline") for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
            ours = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children(os.getpid())]
            assert not [words for words in ours if b"qemu" in words or b"switch" in words]

        def children(pid):
            return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    """)
    result = pytester.runpytest_subprocess(*tiny())
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["test_it: the guest finds no card (52:54:00:00:00:00) within 3 s", "test-results/*"])
    [console] = (pytester.path / "test-results").rglob("console.*")
    assert console.stat().st_size


BLOCKED = """
    import time
    from pathlib import Path

    def test_blocked(readonly_vm_factory, vm_private_network):
        lan = vm_private_network("lan")
        one, two = (readonly_vm_factory(name=name, networks=[lan]) for name in ("one", "two"))
        Path("test").write_text(str(lan.pid))
        two.run("sleep 1000")
"""

CONFTEST = """
    from pathlib import Path

    def pytest_keyboard_interrupt():
        Path("interrupted").touch()
"""


def sigkill(run: InnerRun) -> None:
    run.send(signal.SIGKILL)


def control_c(run: InnerRun) -> None:
    run.press_control_c()


def control_c_twice(run: InnerRun) -> None:
    run.press_control_c()
    run.reaches("interrupted")
    run.press_control_c()


@pytest.mark.parametrize("end", [sigkill, control_c, control_c_twice])
def test_nothing_is_left_of_a_run_with_networks(
    end: Callable[[InnerRun], None], pytester: pytest.Pytester, tmp_path: Path
) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_blocked=BLOCKED)
    with InnerRun(pytester.path, *tiny(), temporary=tmp_path) as dead:
        switch = int(dead.reaches("test").read_text())
        assert len(dead.emulators()) == 2
        end(dead)
        dead.wait()
        dead.leaves_no_process()
        as_promised(lambda: not Path(f"/proc/{switch}/cmdline").exists(), "the switch is gone")
    if end is not sigkill:
        left = [path for path in tmp_path.rglob("*") if path.is_file() and f"readonly-vm-{os.getuid()}" in str(path)]
        assert not [path for path in left if path.suffix != ".slots"]
