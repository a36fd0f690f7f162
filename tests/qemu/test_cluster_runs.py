"""The fixture `readonly_vm_cluster` in runs of their own: asked for by markers, on xdist, in reports."""

import sys
from pathlib import Path

import pytest

from tests.accelerator import ACCEL
from tests.forked import PLAIN
from tests.guests.tiny_linux import tiny_linux
from tests.templates import templates

CLUSTERS = """
import pytest
from pathlib import Path
from pytest_readonly_vm import cluster

@cluster
def pair(new, word="formed"):
    with (Path(__file__).parent / "formed").open("a") as file:
        print(word, file=file)
    lan = new.network("lan")
    for name in ("one", "two"):
        new.machine(name, networks=[lan]).run(f"echo {word} >/tmp/word")

@cluster
def accident(new):
    new.machine("one")
    raise RuntimeError("by accident")

def is_pristine(found):
    assert found.names == ("one", "two")
    assert found["two"].run("ping -c1 one").exit_code == 0
    for vm in found:
        assert vm.run("test -e /tmp/mine && echo mine; cat /tmp/word", check=False).stdout == "formed\\n"
        vm.run("touch /tmp/mine")

@pytest.mark.vm(cluster=pair)
@pytest.mark.parametrize("number", range(3))
def test_each_gets_its_own(readonly_vm_cluster, number):
    is_pristine(readonly_vm_cluster)

@pytest.mark.vm(cluster=pair(word="other"))
def test_arguments_make_another(readonly_vm_cluster, readonly_vm, vm_private_network):
    assert readonly_vm_cluster["one"].run("cat /tmp/word").stdout == "other\\n"
    both = vm_private_network("both")
    for vm in (readonly_vm, readonly_vm_cluster["two"]):
        vm.plug(both)
    assert readonly_vm_cluster["two"].run("ping -c1 vm").exit_code == 0

def test_none_is_asked_for(readonly_vm_cluster):
    pass

@pytest.mark.vm(cluster=pair)
def test_fails(readonly_vm_cluster):
    readonly_vm_cluster["two"].run("echo it was me; false")

@pytest.mark.vm(cluster=accident)
@pytest.mark.parametrize("number", range(3))
def test_cannot_be_formed(readonly_vm_cluster, number):
    pass
"""


def options(cache: Path) -> list[str]:
    guest = tiny_linux()
    return [
        f"--vm-image={guest.disk}", f"--vm-kernel={guest.kernel}", f"--vm-initrd={guest.initrd}",
        f"--vm-append={guest.append}", "--vm-memory=128M", f"--vm-accel={ACCEL}", "--vm-channel=shell",
        "--vm-network=none", "--vm-budget=off", "-p", "no:cacheprovider", f"--vm-cache={cache}",
    ]  # fmt: skip


def test_on_two_workers_each_test_has_a_cluster_of_its_own_which_is_formed_once(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_clusters=CLUSTERS)
    # The guest below is that of other tests of this suite; the cluster is of this run alone.
    result = pytester.runpytest_subprocess("-n2", "--dist=load", "--vm-capsule=on-failure", *options(templates()))
    result.assert_outcomes(passed=4, failed=1, errors=4)
    assert sorted((pytester.path / "formed").read_text().split()) == ["formed", "other"]
    text = result.stdout.str()
    assert (
        "no cluster: give the function that forms it with @pytest.mark.vm(cluster=…), or a vm_cluster fixture" in text
    )
    assert text.count("RuntimeError: by accident") >= 2
    assert "the cluster accident does not form, so it is not tried again" in text or text.count("by accident") >= 3
    result.stdout.fnmatch_lines_random(
        [
            "*CommandFailed: test_fails (two): exit code 1 from: echo it was me; false*",
            "test-results/test_clusters.py-test_fails-*/one",
            "test-results/test_clusters.py-test_fails-*/two",
            "*2 clusters formed in*",
        ]
    )
    for name in ("one", "two"):  # each can be gone on with by itself
        [capsule] = pytester.path.glob(f"test-results/test_clusters.py-test_fails-*/{name}/*.vmcapsule")
        code = "import sys; from pytest_readonly_vm.cli import main; sys.exit(main())"
        resumed = pytester.run(sys.executable, "-c", code, "resume", capsule, "-c", "cat /tmp/word")
        assert (resumed.ret, resumed.outlines[-1]) == (0, "formed")


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("'pair'", "'pair' is not of the form MODULE:NAME"),
        ("'os:path'", "'os:path' is no cluster; put @pytest_readonly_vm.cluster above the function"),
        ("'nowhere:pair'", "'nowhere:pair' cannot be had: No module named 'nowhere'"),
        ("7", "7 is not a text"),
    ],
)
def test_what_is_no_cluster_is_told_before_anything_runs(pytester: pytest.Pytester, written: str, says: str) -> None:
    pytester.makepyfile(
        f"""
        import pytest

        @pytest.mark.vm(cluster={written})
        def test_it(readonly_vm_cluster):
            pass
        """
    )
    result = pytester.runpytest_inprocess(*PLAIN)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert f"cluster: {says}" in result.stderr.str()
