"""The page that shows a run, made by runs on real guests and looked at with a real browser."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_readonly_vm.plugin.page.document import document
from pytest_readonly_vm.plugin.page.rows import Rows
from tests.browser import Tab

Run = Callable[..., pytest.RunResult]

NAMES = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(2)>",
    "\"quoted\" & 'so'",
    "עברית \u202eabc",
    "🦊 {{script}}",
    "line\u2028separator",
)
"""What a test's name may hold, all of it text."""

SUITE = f"""
import os, pytest

@pytest.mark.parametrize("name", {NAMES!r}, ids=str)
def test_name(readonly_vm, name):
    readonly_vm.qmp.execute("query-status")

def test_failing(readonly_vm):
    assert "<b>" == "</script><b>"

def test_module(readonly_vm_module):
    readonly_vm_module.qmp.execute("stop")

@pytest.mark.skip(reason="<i>")
def test_skipped(): pass
"""


@pytest.fixture(autouse=True)
def raw_ids(pytester: pytest.Pytester) -> None:
    """Let pytest put the names of parameters into node ids as they are."""
    pytester.makeini("[pytest]\ndisable_test_id_escaping_and_forfeit_all_rights_to_community_support = true")


def data_of(page: Path) -> dict[str, Any]:
    """The data in a page, found as a browser finds it: it ends where the first ``</script`` is."""
    match = re.search(r'<script type="application/json" id="data">(.*?)</script', page.read_text("utf-8"), re.DOTALL)
    assert match is not None
    data: dict[str, Any] = json.loads(match[1])
    return data


def test_a_parallel_run_in_a_browser(pytester: pytest.Pytester, run_on: Run, tab: Tab) -> None:
    pytester.makepyfile(SUITE)
    result = run_on("hello", "-n", "2", "--vm-report=reports/page.html")
    result.assert_outcomes(passed=len(NAMES) + 1, failed=1, skipped=1)
    page = pytester.path / "reports" / "page.html"
    result.stdout.fnmatch_lines([f"report: {page.as_uri()}"])
    assert list(page.parent.iterdir()) == [page]

    tab.open(page)
    # Everything is there, as text.
    names = tab.evaluate("[...document.querySelectorAll('#spent .name')].map((one) => one.textContent)")
    file = "test_a_parallel_run_in_a_browser.py"
    assert {f"{file}::test_name[{name}]" for name in NAMES} <= set(names)
    assert tab.evaluate("document.querySelectorAll('img, i, b:not(#counts b)').length") == 0
    assert tab.evaluate("document.scripts.length") == 2
    assert tab.evaluate("[...document.querySelectorAll('#counts li')].map((one) => one.textContent)") == [
        "1 failed",
        f"{len(NAMES) + 1} passed",
        "1 skipped",
    ]
    # The machines are grouped by the workers that had them, and something is drawn.
    assert tab.evaluate("timeline.rows.filter((row) => !row.lanes).map((row) => row.label)") == ["gw0", "gw1"]
    assert tab.evaluate("timeline.rows.filter((row) => row.lanes).length") == len(NAMES) + 2
    assert tab.evaluate("new Set(timeline.canvas.getContext('2d').getImageData(0, 0, 900, 200).data).size") > 10
    # A failure leads to the evidence, by a relative link.
    link = tab.evaluate("document.querySelector('#failures a').getAttribute('href')")
    assert link.startswith("../test-results/")
    assert (page.parent / link).is_dir()
    assert "</script><b>" in tab.evaluate("document.querySelector('#failures pre').textContent")
    # By mouse and by keyboard.
    tab.evaluate("document.querySelector('#failures .link').click()")
    assert tab.evaluate("document.querySelector('#details h2').textContent") == f"{file}::test_failing"
    for key in ("ArrowDown", "."):
        tab.press(key)
    assert tab.evaluate("document.querySelector('#details dd').textContent") in ("boot", "qmp", "event")
    x, y = tab.evaluate("(({x, y}) => [x, y])(timeline.canvas.getBoundingClientRect())")
    tab.press("Home")
    test = "run.workers[0].tests[0]"
    tab.click(x + tab.evaluate(f"timeline.x(({test}.from + {test}.to) / 2)"), y + 30)
    assert tab.evaluate("document.querySelector('#details h2').textContent") == tab.evaluate(f"{test}.nodeid")
    tab.press("Escape")
    assert tab.evaluate("document.getElementById('details').hidden")
    tab.press("/")
    tab.call("Input.insertText", text="עברית")
    assert tab.evaluate("document.querySelectorAll('#spent tbody tr').length") == 1
    # For other eyes.
    light = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    tab.prefer("dark")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") != light
    tab.pdf(pytester.path / "page.pdf")
    tab.prefer("light")
    assert tab.complaints == []


def test_where_the_time_of_a_test_went(tab: Tab, tmp_path: Path) -> None:
    """The outermost of what a test waits for counts; a machine of its module's counts while the test runs."""
    rows = Rows(epoch=1000.0)
    for nodeid, begin in (("a.py::test_first", 1000.0), ("a.py::test_second", 1010.0)):
        rows.add_phase("", nodeid, "call", (begin, begin + 10), outcome="passed", crash="", message="", evidence=[])
    entries = [
        ("start: boot", 1002.0, 3.0),  # as it is noted when somebody takes the machine over
        ("boot", 1001.0, 3.0),
        ("wait", 1005.0, 2.0),
        ("command", 1005.5, 1.0),
        ("layer", 1000.5, 0.25),  # for a template, before there was this machine
        ("qmp", 1005.6, 0.5),
        ("command", 1008.0, 4.0),
        ("event", 1013.0, 0.0),
        ("qmp", 1014.0, 0.5),
        ("health", 1015.0, 2.0),
    ]
    lane = {
        "name": "machine", "test": "a.py", "scope": "module", "manner": "boot", "reason": "", "seconds": 3.0,
        "phases": {}, "accelerator": "tcg", "channel": None, "image": "x", "started": 1001.0, "ended": 1019.0,
        "entries": [
            {"kind": kind.partition(":")[0], "what": kind, "time": time, "seconds": seconds, "outcome": ""}
            for kind, time, seconds in entries
        ],
    }  # fmt: skip
    rows.add_machine("", lane)
    page = tmp_path / "page.html"
    page.write_text(document(rows.data(title="", versions="")), "utf-8")
    tab.open(page)
    keys = ("total", "start", "wait", "health", "file", "command", "monitor", "own")
    spent = tab.evaluate(f"run.tests.map(({{spent}}) => {json.dumps(keys)}.map((key) => Math.round(spent[key])))")
    assert spent == [[10000, 3250, 2000, 0, 0, 2000, 0, 2750], [10000, 0, 0, 2000, 0, 2000, 500, 5500]]
    assert tab.evaluate("run.lanes[0].began") == 1000
    assert "health gates" in tab.evaluate("document.querySelector('#spent thead').textContent")
    assert tab.complaints == []


def test_every_kind_has_a_colour_and_no_label_is_cut(tab: Tab, tmp_path: Path) -> None:
    kinds = (
        *("boot", "layer", "command", "file", "wait", "health", "qmp", "event", "screen", "death", "state"),
        *("network", "fault", "partition", "cable", "capture"),
    )
    entries = [
        {"kind": kind, "what": kind, "time": 1001.0 + number, "seconds": 0.5, "outcome": ""}
        for number, kind in enumerate(kinds)
    ]
    rows = Rows(epoch=time.time() - 21)
    rows.add_machine(
        "", {"name": "x", "test": "", "started": 1001.0, "ended": 1019.0, "seconds": 1, "entries": entries}
    )
    page = tmp_path / "page.html"
    page.write_text(document(rows.data(title="", versions="")), "utf-8")
    for width in (1280, 420):
        tab.open(page, width=width)
        assert tab.evaluate(f"{json.dumps(kinds)}.filter((kind) => !timeline.ink[kind])") == []
        dots = "[...document.querySelectorAll('#legend .dot')].map((one) => getComputedStyle(one).backgroundColor)"
        colours = tab.evaluate(dots)
        assert len(set(colours)) == len(colours) == len(kinds)
        cut = tab.evaluate("""(() => {
            const pens = CanvasRenderingContext2D.prototype, fill = pens.fillText, cut = [];
            let labels = 0;
            pens.fillText = function (text, x, y) {
                if (y < RULER) labels++;
                if (x + this.measureText(text).width > timeline.width) cut.push(text);
            };
            for (let to = 20; to < 21; to += 0.01) { timeline.view = {from: 0, to: to * 1e3}; timeline.draw(); }
            pens.fillText = fill;
            return labels ? cut : "no label";
        })()""")
        assert cut == []
    assert tab.complaints == []


def test_a_run_without_machines_has_a_page_too(pytester: pytest.Pytester, run_on: Run, tab: Tab) -> None:
    pytester.makepyfile("def test_it(): pass")
    run_on("hello", "--vm-report=page.html").assert_outcomes(passed=1)
    tab.open(pytester.path / "page.html")
    assert "no machine" in tab.evaluate("document.getElementById('subtitle').textContent")
    run_on("hello", "--vm-report=page.html", "-k", "nothing")
    tab.open(pytester.path / "page.html")
    assert tab.evaluate("document.querySelectorAll('#spent tbody tr').length") == 0
    assert tab.complaints == []


def test_what_a_single_process_tells(pytester: pytest.Pytester, run_on: Run) -> None:
    pytester.makepyfile("""
        import pytest
        def test_it(readonly_vm):
            readonly_vm.qmp.execute("query-name")
        @pytest.fixture
        def broken(readonly_vm):
            raise ValueError("on purpose")
        def test_error(broken): pass
    """)
    pytester.mkpydir("package").joinpath("test_broken.py").write_text("import nothing_of_this_name")
    run_on("hello", "--vm-report=page.html", "--vm-start=cold", "--continue-on-collection-errors")
    data = data_of(pytester.path / "page.html")
    file = "test_what_a_single_process_tells.py"
    assert {test["nodeid"]: test["outcome"] for test in data["tests"]} == {
        "package/test_broken.py": "error",
        f"{file}::test_it": "passed",
        f"{file}::test_error": "error",
    }
    by_name = {test["name"]: test for test in data["tests"]}
    assert [phase[0] for phase in by_name["test_it"]["phases"]] == ["setup", "call", "teardown"]
    assert by_name["test_error"]["message"] == "ValueError: on purpose"
    assert re.fullmatch(rf"{file}:\d+", by_name["test_error"]["crash"])
    lane = next(lane for lane in data["lanes"] if lane["name"] == "test_it")
    assert (lane["test"], lane["worker"], lane["manner"]) == (f"{file}::test_it", "", "boot")
    assert lane["asked"] <= lane["started"] < lane["handed"] < lane["ended"]
    assert {start["name"] for start in data["starts"]} == {"test_it", "test_error"}
    assert "query-name" in [data["texts"][what] for what in lane["entries"]["what"]]


@pytest.mark.parametrize("path", ["file/page.html", "folder"])
def test_a_page_that_cannot_be_written_changes_no_outcome(pytester: pytest.Pytester, run_on: Run, path: str) -> None:
    (pytester.path / "file").touch()
    (pytester.path / "folder").mkdir()
    pytester.makepyfile("def test_it(): pass")
    result = run_on("hello", f"--vm-report={path}")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines([f"report: */{path} could not be written: *"])
    assert not list(pytester.path.glob("*.partial"))
    assert "Traceback" not in result.stdout.str() + result.stderr.str()


def test_a_worker_that_dies_is_on_the_page(pytester: pytest.Pytester, run_on: Run) -> None:
    pytester.makepyfile("import os\ndef test_it(): os._exit(1)")
    run_on("hello", "-n", "1", "--vm-report=page.html")
    (test,) = data_of(pytester.path / "page.html")["tests"]
    assert (test["outcome"], test["worker"]) == ("failed", "gw0")
    assert "crashed" in test["message"]


def test_nothing_in_the_data_ends_its_element(tmp_path: Path) -> None:
    texts = ["</script>", "<!-- <script>", "]]>", "&lt;", "\u2028\u2029", "\ud800", "{{policy}}", "\x00\x1f"]
    page = tmp_path / "page.html"
    page.write_text(document({"texts": texts}), "utf-8")
    assert data_of(page) == {"texts": texts}
    assert page.read_text("utf-8").count("</script>") == 2


def test_of_too_many_happenings_those_that_ended_badly_are_kept() -> None:
    def lane(count: int) -> dict[str, Any]:
        entries = [
            {"kind": "death" if number == 1 else "qmp", "what": str(number), "time": 5.0, "seconds": 0.0,
             "outcome": "refused" if number == 2 else ""}
            for number in range(count)
        ]  # fmt: skip
        return {"started": 4.0, "ended": 6.0, "seconds": 0.5, "entries": entries}

    rows = Rows(epoch=time.time(), most=10)
    for count in (8, 5):
        rows.add_machine("", lane(count))
    lanes: Any = rows.data(title="", versions="")["lanes"]
    assert [len(lane["entries"]["time"]) for lane in lanes] == [8, 2]
    assert [lane["dropped"] for lane in lanes] == [0, 3]
