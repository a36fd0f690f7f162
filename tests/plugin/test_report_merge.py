"""What the runs of shards have left, made one: pages of real runs, files of durations, and what is no such thing."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_readonly_vm.cli import main
from tests.browser import Tab
from tests.plugin.test_page import data_of

Run = Callable[..., pytest.RunResult]

SUITE = """
    import pytest
    @pytest.mark.parametrize("n", range(3))
    def test_it(readonly_vm, n): readonly_vm.qmp.execute("query-status")
    def test_failing(readonly_vm_module): assert "</script><b>" == 1
"""


def test_pages_of_shards_that_do_not_belong_together_are_refused(
    pytester: pytest.Pytester, run_on: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """As where one job has found another file of durations: a test may have been in no shard."""
    pytester.makepyfile(test_it="def test_one(): pass\ndef test_two(): pass\ndef test_three(): pass")
    (pytester.path / "other.json").write_text('{"test_it.py::test_two": 50, "test_it.py::test_three": 1}')
    for number, durations in ((1, "none.json"), (2, "none.json"), (2, "other.json")):
        page = f"--vm-report={number}{durations}.html"
        run_on("hello", f"--vm-shard={number}/3", page, f"--vm-durations={durations}")
    one, two, other = "1none.json.html", "2none.json.html", "2other.json.html"
    assert main(["report", "merge", "out.html", one, two]) == 0
    assert "without shard 3" in capsys.readouterr().out
    assert main(["report", "merge", "out.html", one, one]) == 0  # as where a job was started again
    assert "2 runs with 2 tests, without shard 2, without shard 3, shard 1 2 times\n" in capsys.readouterr().out
    assert main(["report", "merge", "more.html", "out.html", two]) == 0  # what was merged knows of what it is
    assert "2 runs with 3 tests, without shard 3, shard 1 2 times\n" in capsys.readouterr().out
    assert main(["report", "merge", "out.html", "more.html", other]) == 2
    assert "more.html is shard 1, 1, 2/3 of plan" in capsys.readouterr().err
    assert main(["report", "merge", "out.html", one, other]) == 2
    assert "other.json.html is shard 2/3 of plan" in capsys.readouterr().err


def test_the_pages_of_shards_become_one(pytester: pytest.Pytester, run_on: Run, tab: Tab) -> None:
    pytester.makepyfile(test_it=SUITE)
    pages = [f"shard{number}/page.html" for number in (1, 2)]
    for number, page in enumerate(pages, 1):
        run_on("hello", f"--vm-shard={number}/2", f"--vm-report={page}", f"--vm-output=shard{number}/results")
    assert main(["report", "merge", "all/page.html", *pages]) == 0
    parts = [data_of(pytester.path / page) for page in pages]
    data = data_of(pytester.path / "all/page.html")
    names = ("test_it[0]", "test_it[1]", "test_it[2]", "test_failing")
    assert sorted(test["nodeid"] for test in data["tests"]) == sorted(f"test_it.py::{name}" for name in names)
    assert len(data["lanes"]) == sum(len(part["lanes"]) for part in parts) == 4
    assert {test["worker"] for test in data["tests"]} == {"shard1", "shard2"}
    told = [
        (lane["name"], [(part["kinds"][k], part["texts"][w]) for k, w in zip(*columns(lane), strict=True)])
        for part in (*parts, data)
        for lane in part["lanes"]
    ]
    assert sorted(told[:4]) == sorted(told[4:])
    tab.open(pytester.path / "all/page.html")
    assert tab.evaluate("timeline.rows.filter((row) => !row.lanes).map((row) => row.label)") == ["shard1", "shard2"]
    link = tab.evaluate("document.querySelector('#failures a').getAttribute('href')")
    assert any((pytester.path / "all" / link).iterdir())
    assert tab.complaints == []


def columns(lane: dict[str, Any]) -> tuple[list[int], list[int]]:
    return lane["entries"]["kind"], lane["entries"]["what"]


PAGE = '<title>Test run in virtual machines</title><script type="application/json" id="data">{}</script>'
DATA = {
    "title": "t",
    "versions": "v",
    "epoch": 1.0,
    "seconds": 2.0,
    "kinds": ["qmp"],
    "texts": ["stop"],
    "starts": [],
    "tests": [
        {"nodeid": "a", "name": "a", "worker": "", "outcome": "passed", "crash": "", "message": ""}
        | {"phases": [["call", 0, 1]], "evidence": ["javascript:alert(1)"]}
    ],
    "lanes": [
        {"name": "a", "test": "a", "worker": "", "seconds": 1.0, "manner": "boot", "scope": "function", "dropped": 0}
        | {"asked": 0, "handed": 0, "started": 0, "ended": 1}
        | {"entries": {"kind": [0], "what": [0], "time": [0], "duration": [1], "outcome": [-1]}}
    ],
}


def changed(path: str, value: object) -> str:
    """A page in whose data something is another: ``lanes.0.seconds``."""
    data = json.loads(json.dumps(DATA))
    *way, last = path.split(".")
    inner = data
    for name in way:
        inner = inner[int(name) if name.isdecimal() else name]
    inner[int(last) if last.isdecimal() else last] = value
    return PAGE.format(json.dumps(data))


@pytest.mark.parametrize(
    "page",
    [
        "<p>no page</p>",
        PAGE.format("{"),
        PAGE.format("[]"),
        PAGE.format("[" * 10**5),
        changed("kinds", ["k"] * 256),
        changed("epoch", float("nan")),
        changed("seconds", 10**400),
        changed("tests.0.nodeid", 1),
        changed("tests.0.phases", [["call", 0]]),
        changed("tests.0.phases", [["call", -1, 0]]),
        changed("tests.0.evidence", "text"),
        changed("lanes.0.entries.kind", [1]),
        changed("lanes.0.entries.what", [-2]),
        changed("lanes.0.entries.time", [0, 1]),
        changed("lanes.0.ended", 1e3),
        changed("lanes.0.more", {"a": {"b": {"c": {"d": {"e": 1}}}}}),
        changed("starts", [{"name": "a"}]),
    ],
)
def test_a_page_that_is_damaged_is_refused_by_a_sentence(
    page: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "good.html").write_text(PAGE.format(json.dumps(DATA)))
    (tmp_path / "bad.html").write_text(page)
    status = main(["report", "merge", *(str(tmp_path / name) for name in ("out.html", "good.html", "bad.html"))])
    assert status == 2
    [sentence] = capsys.readouterr().err.splitlines()
    assert re.match(r"readonly-vm: \S+/bad.html: (it is no page of a run|the page is damaged: .*)$", sentence)
    assert not (tmp_path / "out.html").exists()


def test_a_link_of_a_stranger_is_the_name_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "one.html").write_text(PAGE.format(json.dumps(DATA)))
    assert main(["report", "merge", str(tmp_path / "out.html"), str(tmp_path / "one.html")]) == 0
    assert data_of(tmp_path / "out.html")["tests"][0]["evidence"] == ["javascript%3Aalert%281%29/"]


def test_only_a_page_is_replaced_and_only_alike_is_merged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, durations, text = (tmp_path / name for name in ("page.html", "durations.json", "text"))
    page.write_text(PAGE.format(json.dumps(DATA)))
    durations.write_text('{"a": 1}')
    text.write_text("precious")
    for words, complaint in (
        ((text, page), "it is a file that is there already, and no page of an earlier run"),
        ((text, durations), "it is no file of durations"),
        ((tmp_path / "out", page, durations), "is none: merge pages with pages, durations with such"),
        ((tmp_path / "out", tmp_path / "missing"), "No such file or directory"),
    ):
        assert main(["report", "merge", *map(str, words)]) == 2
        assert complaint in capsys.readouterr().err
    assert text.read_text() == "precious"
    assert not (tmp_path / "out").exists()


def test_of_durations_what_a_run_has_measured_wins_over_what_it_began_with(tmp_path: Path) -> None:
    files = {
        "before": {"a": 1, "b": 1, "c": 1},
        "one": {"a": 2, "b": 1, "c": 1},
        "two": {"a": 1, "b": 3, "c": 1, "d": 4},
    }
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    assert main(["report", "merge", *(str(tmp_path / name) for name in ("before", "one", "two"))]) == 0
    assert json.loads((tmp_path / "before").read_text()) == {"a": 2, "b": 3, "c": 1, "d": 4}
