"""Owns what other reporters get to know of machines: pytest-html, Allure, JUnit XML, GitHub Actions.

None of them is needed, and none is loaded here: what is there is used.
"""

import base64
import contextlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from pytest_readonly_vm.image.output_guard import OutputGuard
from pytest_readonly_vm.plugin.hosts.line import HERE
from pytest_readonly_vm.printable import line

if TYPE_CHECKING:
    from pytest_readonly_vm.evidence.collect import Evidence
    from pytest_readonly_vm.machine.vm import VirtualMachine

_ROWS_SHOWN = 100
_LONGEST_CELL = 300


def properties(vm: "VirtualMachine", identity: Mapping[str, str], evidence: str | None) -> list[tuple[str, str]]:
    """What is known of a machine, as properties of its test in JUnit XML.

    :param identity: of its base image, as `Lab.identity` has it.
    """
    found = [("vm", vm.name)]
    if vm.config.image is not None:
        found.append(("vm_image", str(vm.config.image)))
        found += [(f"vm_image_{kind}", value) for kind, value in identity.items()]
    found += [("vm_accelerator", vm.accelerator), ("vm_start", vm.manner)]
    found += [("vm_start_reason", line(vm.reason))] if vm.reason else []
    return [*found, ("vm_evidence", evidence)] if evidence else found


def attach(
    config: pytest.Config, report: pytest.TestReport, evidences: "Sequence[Evidence]", home: Callable[[Path], Path]
) -> None:
    """Show what was saved in the reports of other plugins. What goes wrong there is no failure of a test.

    :param home: where a file is for who reads these.
    """
    for evidence in evidences:
        with contextlib.suppress(Exception):
            if config.pluginmanager.hasplugin("html"):
                vars(report)["extras"] = [*getattr(report, "extras", ()), *_extras(config, evidence, home)]
        with contextlib.suppress(Exception):
            if config.pluginmanager.hasplugin("allure_pytest") and config.getoption("allure_report_dir", None):
                _attach_to_allure(evidence)


def _extras(config: pytest.Config, evidence: "Evidence", home: Callable[[Path], Path]) -> list[dict[str, Any]]:
    from pytest_html import extras  # type: ignore[import-untyped]

    page = config.getoption("htmlpath", None)
    here = Path(getattr(config, "workerinput", {}).get(HERE) or Path.cwd())
    start = (here / page).parent if page else here
    found = []
    for path in evidence.saved:
        if path.suffix == ".png":
            found.append(extras.png(base64.b64encode(path.read_bytes()).decode(), name=path.name))
    for path in (evidence.folder, *evidence.saved):
        url = quote(os.path.relpath(home(path), start))
        found.append(extras.url(url, name="evidence" if path == evidence.folder else path.name))
    return found


def _attach_to_allure(evidence: "Evidence") -> None:
    import allure

    kinds = {".png": allure.attachment_type.PNG, ".json": allure.attachment_type.JSON}
    for path in evidence.saved:
        if path.suffix in (".txt", ".jsonl", ".sh", *kinds):
            kind = kinds.get(path.suffix, allure.attachment_type.TEXT)
            allure.attach.file(path, name=path.name, attachment_type=kind)  # type: ignore[no-untyped-call]


def append_step_summary(incidents: Iterable[Mapping[str, Any]], shown: Any, output_guard: OutputGuard) -> None:
    """Add a table of the failures to the page of a job of GitHub Actions, if this is one.

    https://docs.github.com/actions/reference/workflow-commands-for-github-actions, "Adding a job summary".
    """
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    rows = list(incidents)
    if not path or not rows:
        return
    lines = [
        "### Failures with virtual machines",
        "",
        "| test | what failed | machine | evidence |",
        "|---|---|---|---|",
    ]
    for incident in rows[:_ROWS_SHOWN]:
        again = f" (attempt {incident['attempt'] + 1})" if incident["attempt"] else ""
        folders = ", ".join(shown(folder) for folder in incident["folders"]) or "; ".join(incident["complaints"])
        what = f"{incident['when']}: {incident['headline']}"
        cells = (incident["test"] + again, what, ", ".join(incident["machines"]), folders)
        lines.append(f"| {' | '.join(_cell(cell) for cell in cells)} |")
    if len(rows) > _ROWS_SHOWN:
        lines.append(f"| and {len(rows) - _ROWS_SHOWN} more | | | |")
    with contextlib.suppress(OSError):
        output_guard.refuse(Path(path))
        with Path(path).open("a", encoding="utf-8", errors="replace") as file:
            file.write("\n".join(lines) + "\n\n")


def _cell(text: str) -> str:
    """A text as it is, in a table of Markdown."""
    content = line(text, _LONGEST_CELL)
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]<>#|~" else letter for letter in content)
