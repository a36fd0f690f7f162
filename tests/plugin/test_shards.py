"""Shards, xdist's groups and durations, as somebody who runs pytest meets them. Machines run where they must."""

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

import benchmarks
from tests.forked import PLAIN
from tests.qemu.waiting import GENEROUS

Run = Callable[..., pytest.RunResult]

LONG = 4 * GENEROUS
"""Seconds for a run."""

KINDS = """
    import pytest
    from prepared import first, second

    @pytest.fixture
    def size(): return "24M"

    @pytest.mark.parametrize("n", range(4))
    @pytest.mark.vm(memory="20M")
    def test_marked(readonly_vm, n): pass

    @pytest.mark.parametrize("n", range(4))
    @pytest.mark.vm(memory=20 << 20, evidence="off")
    def test_marked_alike(readonly_vm_factory, n): pass

    @pytest.mark.parametrize("vm_memory", ["20M", "28M"])
    def test_parameter(readonly_vm, vm_memory): pass

    @pytest.mark.parametrize("size", ["32M", "36M"])
    class TestOverridden:
        @pytest.fixture
        def vm_memory(self, size): return size
        def test_one(self, readonly_vm): pass
        def test_two(self, readonly_vm): pass

    @pytest.mark.vm(layers=[first, second("x")])
    def test_layers(readonly_vm): pass
    @pytest.mark.vm(layers=[first, second("y")])
    def test_other_layers(readonly_vm): pass

    class TestShared:
        def test_one(self, readonly_vm_module): pass
        def test_two(self, readonly_vm_module): pass
    @pytest.mark.vm(scope="module")
    def test_three(readonly_vm): pass

    @pytest.mark.parametrize("n", range(9))
    def test_plain(n): pass
"""

PREPARED = """
    from pytest_readonly_vm import layer
    @layer
    def first(vm): pass
    @layer
    def second(vm, text): pass
"""

TELL = """
    from pytest_readonly_vm.plugin.distribution.kinds import kind_of, wishes
    def pytest_collection_finish(session):
        for item in session.items:
            print("KIND", item.nodeid, "=", kind_of(wishes(item)))
"""


@pytest.fixture
def run(pytester: pytest.Pytester) -> Run:
    return lambda *arguments: pytester.runpytest_subprocess(*PLAIN, *arguments, timeout=LONG)


@pytest.fixture
def suite(pytester: pytest.Pytester) -> list[str]:
    """The node ids of a suite of several kinds."""
    pytester.makepyfile(prepared=PREPARED)
    for name in ("a", "b"):
        pytester.makepyfile(**{f"test_{name}": KINDS})
    return collected(pytester.runpytest_subprocess(*PLAIN, "--collect-only", "-q"))


def collected(result: pytest.RunResult) -> list[str]:
    return [line for line in result.outlines if line.startswith("test_") and "::" in line]


def test_tests_are_of_one_kind_if_they_start_from_the_same_frozen_guest(
    pytester: pytest.Pytester, suite: list[str]
) -> None:
    pytester.makeconftest(TELL)
    texts = set()
    for seed in ("1", "2"):  # of which the order of sets depends
        result = pytester.run(
            sys.executable,
            "-X",
            f"hash_seed={seed}",
            "-m",
            "pytest",
            *PLAIN,
            "--collect-only",
            "-q",
            timeout=LONG,
        )
        texts.add("\n".join(line for line in result.outlines if line.startswith("KIND")))
    [text] = texts
    kinds: dict[str, set[str]] = {}
    for line in text.splitlines():
        nodeid, _, kind = line.removeprefix("KIND ").partition(" = ")
        kinds.setdefault(kind, set()).add(nodeid.rpartition("::")[2])
    assert " at 0x" not in text
    assert sorted(map(sorted, kinds.values())) == sorted(
        map(
            sorted,
            [
                {*(f"test_marked[{n}]" for n in range(4)), *(f"test_marked_alike[{n}]" for n in range(4))}
                | {"test_parameter[20M]"},
                {"test_parameter[28M]"},
                # Which are overridden in each module, and nobody knows whether they return the same.
                {"test_one[32M]", "test_two[32M]"},
                {"test_one[32M]", "test_two[32M]"},
                {"test_one[36M]", "test_two[36M]"},
                {"test_one[36M]", "test_two[36M]"},
                {"test_layers"},
                {"test_other_layers"},
                {"test_one", "test_two", "test_three"},
                {f"test_plain[{n}]" for n in range(9)},
            ],
        )
    )


@pytest.mark.parametrize("shards", [1, 3, 200])
def test_each_test_is_in_one_shard(suite: list[str], run: Run, shards: int) -> None:
    numbers = range(1, shards + 1) if shards < 10 else (1, 2, 100, 200)
    found = {number: collected(run("--collect-only", "-q", f"--vm-shard={number}/{shards}")) for number in numbers}
    if shards < 10:
        assert sorted(nodeid for one in found.values() for nodeid in one) == sorted(suite)
        for one in found.values():
            assert one == [nodeid for nodeid in suite if nodeid in one]
    for name in ("test_a.py", "test_b.py"):  # the machine of a module is one
        shared = [f"{name}::TestShared::test_one", f"{name}::TestShared::test_two", f"{name}::test_three"]
        assert all(set(shared) <= set(one) or not set(shared) & set(one) for one in found.values())


def test_five_kinds_of_twelve_tests_are_each_in_one_of_three_shards(pytester: pytest.Pytester, run: Run) -> None:
    """The suite of the benchmark, which boots it as well."""
    pytester.makepyfile(test_kinds=(Path(benchmarks.__file__).parent / "kinds/test_kinds.py").read_text())
    places: dict[str, set[int]] = {}
    for number in (1, 2, 3):
        for nodeid in collected(run("--collect-only", "-q", f"--vm-shard={number}/3")):
            places.setdefault(nodeid.split("::")[1], set()).add(number)
    assert [len(places[f"Test{kind}"]) for kind in "ABCDE"] == [1] * 5


def test_what_others_choose_is_chosen_first_and_all_processes_agree(
    pytester: pytest.Pytester, suite: list[str], run: Run
) -> None:
    plain = [nodeid for nodeid in suite if "test_plain" in nodeid]
    pytester.makepyfile(backwards="def pytest_collection_modifyitems(items): items.reverse()")
    alone = [collected(run("--collect-only", "-q", "-k", "plain", f"--vm-shard={n}/2")) for n in (1, 2)]
    assert sorted(alone[0] + alone[1]) == sorted(plain)
    assert len(alone[0]) == len(alone[1])
    backwards = run("--collect-only", "-q", "-k", "plain", "--vm-shard=1/2", "-p", "backwards")
    assert collected(backwards) == alone[0][::-1]
    result = run("-n", "2", "-v", "-k", "plain", "--vm-shard=1/2")
    result.assert_outcomes(passed=9)
    ran = [line.split()[-1] for line in result.outlines if "PASSED" in line]
    assert sorted(ran) == sorted(alone[0])
    result.stdout.fnmatch_lines(["vm: shard 1/2: 9 of 18 tests; plan *"])


def test_workers_go_by_what_the_controller_was_given(
    pytester: pytest.Pytester, suite: list[str], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may be on a computer with another environment, and without the file of durations."""
    pytester.makeconftest("""
        import os, pytest
        @pytest.hookimpl(trylast=True)
        def pytest_configure(config):
            for name in ("SHARD", "DURATIONS", "STORE_DURATIONS"):
                os.environ.pop(f"PYTEST_VM_{name}", None)
    """)
    monkeypatch.setenv("PYTEST_VM_SHARD", "1/2")
    monkeypatch.setenv("PYTEST_VM_DURATIONS", "durations.json")
    monkeypatch.setenv("PYTEST_VM_STORE_DURATIONS", "on")
    # One of a file whose name is not UTF-8, as a run without workers stores it.
    (pytester.path / "durations.json").write_text('{"test_a.py::test_plain[0]": 100, "test_\\udcff.py::test": 100}')
    result = run("-n", "2", "-k", "test_a and plain")
    stored = json.loads((pytester.path / "durations.json").read_text())
    assert len([name for name in stored if stored[name] < 100]) == result.parseoutcomes()["passed"]
    result.stdout.fnmatch_lines(["vm: shard 1/2: * of 9 tests, about *"])


def test_the_header_and_the_counts_tell_what_is_left(suite: list[str], run: Run) -> None:
    result = run("--collect-only", "--vm-shard=1/3")
    of = len(suite)
    [told] = [line for line in result.outlines if line.startswith("vm: shard 1/3: ")]
    here = int(told.split()[3])
    assert f"{here}/{of} tests collected ({of - here} deselected)" in result.outlines[-1]
    assert f"of {of} tests, " in told
    assert "of 9 kinds of machines" in told
    assert "vm: shard 1 of 3, balanced by the number of tests, as no durations are known" in result.outlines


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["one process", "xdist"])
def test_what_failed_is_not_shared_out_once_more(pytester: pytest.Pytester, run: Run, workers: tuple[str, ...]) -> None:
    """The second of two shards would find that of two failures the first has gone, and the other is not its own."""
    pytester.makepyfile("""
        import os, pytest
        @pytest.mark.parametrize("n", range(4))
        def test_it(n): assert n > 1 or "FIXED" in os.environ
    """)
    remembers = ("-p", "cacheprovider")  # which such runs do without
    for number in (1, 2):
        run(*remembers, "--lf", f"--vm-shard={number}/2", *workers).assert_outcomes(failed=1, passed=1)
        if number == 1:
            (pytester.path / ".pytest_cache").rename(pytester.path / "of another")
    result = run(*remembers, "--lf", "--vm-shard=2/2", *workers)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --lf runs what failed here, *; leave out --vm-shard=2/2"])
    run(*remembers, "--lf", *workers).assert_outcomes(failed=1)


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["one process", "xdist"])
def test_a_shard_without_a_test_has_not_failed(pytester: pytest.Pytester, run: Run, workers: tuple[str, ...]) -> None:
    pytester.makepyfile("def test_it(): pass")
    assert run("--vm-shard=1/2", *workers).ret == pytest.ExitCode.OK
    assert run("--vm-shard=2/2", *workers).ret == pytest.ExitCode.OK
    # What has nothing to do with shards is as always.
    assert run("--vm-shard=2/2", "-k", "nothing", *workers).ret == pytest.ExitCode.NO_TESTS_COLLECTED


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--vm-shard=2"], "--vm-shard: shard: '2' is not of the form NUMBER/SHARDS, like 2/8"),
        (["--vm-shard=a/b"], "--vm-shard: shard: 'a/b' is not of the form NUMBER/SHARDS, like 2/8"),
        (["--vm-shard=0/8"], "--vm-shard: shard: '0/8': the first number is to be 1 at least, and no more than *"),
        (["--vm-shard=9/8"], "--vm-shard: shard: '9/8': the first number is to be 1 at least, and no more than *"),
        (["--vm-shard=1/99999999"], "--vm-shard: shard: '1/99999999': the first number is to be *"),
        (["--vm-store-durations"], "--vm-store-durations: store_durations needs a file, and there is none; give *"),
        (["--vm-durations=text"], "--vm-durations: */text: it is no file of durations: not JSON"),
        (["--vm-durations=."], "--vm-durations: *: Is a directory"),
        (["--vm-durations=number"], "--vm-durations: */number: it is no file of durations: not an object with *"),
        (["--vm-durations=hostile"], "--vm-durations: */hostile: it is no file of durations: 'a\\x1b': -1 is no *"),
        (
            ["--vm-durations=infinite"],
            "--vm-durations: */infinite: it is no file of durations: *Infinity*|*inf is no *",
        ),
        (["--vm-durations=deep"], "--vm-durations: */deep: it is no file of durations: not JSON"),
    ],
)
def test_a_wrong_value_is_one_sentence(pytester: pytest.Pytester, run: Run, options: list[str], complaint: str) -> None:
    pytester.makepyfile("def test_it(): pass")
    files = {
        "text": "{",
        "number": "1",
        "hostile": '{"a\\u001b": -1}',
        "infinite": '{"a": Infinity}',
        "deep": "[" * 10**6,
    }
    for name, content in files.items():
        (pytester.path / name).write_text(content)
    result = run(*options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.re_match_lines([f"ERROR: {'|'.join(map(pattern, complaint.split('|')))}"])
    assert "Traceback" not in f"{result.stdout}{result.stderr}"


def pattern(text: str) -> str:
    import re

    return ".*".join(map(re.escape, text.split("*"))) + "$"


def test_durations_are_stored_without_what_templates_take_and_merged(pytester: pytest.Pytester, run_on: Run) -> None:
    """By one process, and by workers; the test that boots is not slower than the others by that."""
    pytester.makepyfile("""
        import pytest
        @pytest.mark.parametrize("n", range(3))
        def test_it(readonly_vm, n): pass
    """)
    file = pytester.path / "durations.json"
    file.write_text('{"test_gone.py::test_it": 7.5}')
    slow = "--vm-qemu-args=-boot menu=on,splash-time=6000"
    options = (slow, f"--vm-durations={file}", "--vm-store-durations", f"--vm-cache={pytester.path / 'templates'}")
    for workers in ((), ("-n", "2", "--dist=loadgroup")):
        result = run_on("hello", *options, *workers)
        result.assert_outcomes(passed=3)
        result.stdout.fnmatch_lines(["durations: *durations.json has those of 3 tests of this run"])
        found = json.loads(file.read_text())
        templates = [seconds for name, seconds in found.items() if name.startswith("readonly-vm template ")]
        assert len(templates) == 1
        assert templates[0] > 6
        [name] = {name.partition("[")[0] for name in found if name.startswith("test_") and "gone" not in name}
        assert name.endswith("::test_it")
        assert found["test_gone.py::test_it"] == 7.5
        assert max(seconds for test, seconds in found.items() if test.startswith(name)) < templates[0]


def test_shards_are_balanced_by_durations(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(test_it="import pytest\n@pytest.mark.parametrize('n', range(8))\ndef test_it(n): pass")
    (pytester.path / "durations").write_text(json.dumps({"test_it.py::test_it[3]": 70, "test_it.py::test_it[0]": 10}))
    first, second = (
        collected(run("--collect-only", "-q", "--vm-durations=durations", f"--vm-shard={n}/2")) for n in (1, 2)
    )
    # Of the others nothing is known, so they count as the mean of those two.
    assert sorted(map(len, (first, second))) == [4, 4]
    (pytester.path / "durations").write_text(
        json.dumps({f"test_it.py::test_it[{n}]": 70 if n == 3 else 10 for n in range(8)})
    )
    result = run("--collect-only", "-q", "--vm-durations=durations", "--vm-shard=1/2")
    assert collected(result) == ["test_it.py::test_it[3]"]
    result.stdout.fnmatch_lines(["vm: shard 1/2: 1 of 8 tests, about 70 s; plan *"])


def test_workers_get_whole_kinds_and_nobody_sees_the_groups(pytester: pytest.Pytester, run_on: Run) -> None:
    """Not in node ids, nor in the name of a folder of evidence, nor for ``--lf``, nor in the report of a crash."""
    pytester.makepyfile(
        test_it="""
        import os, pytest

        @pytest.mark.parametrize("n", range(5))
        @pytest.mark.vm(memory="18M")
        def test_one(readonly_vm, n, worker_id): print("RAN one", worker_id)

        @pytest.mark.parametrize("n", range(5))
        @pytest.mark.vm(memory="20M")
        def test_two(readonly_vm, n, worker_id): print("RAN two", worker_id)

        @pytest.mark.xdist_group("theirs")
        @pytest.mark.vm(memory="20M")
        def test_theirs(readonly_vm): assert 0

        def test_dies(readonly_vm_module): os.kill(os.getpid(), 9)
    """
    )
    result = run_on(
        "hello", "-n", "2", "--dist=loadgroup", "-rA", "-v", "--max-worker-restart=0", needed=("cacheprovider",)
    )
    result.assert_outcomes(passed=10, failed=2)
    ran = Counter(line for line in result.outlines if line.startswith("RAN"))
    assert sorted(ran.values()) == [5, 5]
    output = result.stdout.str()
    assert "@vm:" not in output
    assert "crashed while running 'test_it.py::test_dies'" in output
    assert [path.name for path in (pytester.path / "test-results").iterdir()] != []
    assert not list((pytester.path / "test-results").glob("*vm*1*"))
    failed = json.loads((pytester.path / ".pytest_cache/v/cache/lastfailed").read_text())
    assert "test_it.py::test_dies" in failed
