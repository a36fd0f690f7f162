"""What stands around the package is as it should be: the top level, the workflows, the pages' commands, the checks."""

import json
import os
import re
import subprocess
import tomllib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from pytest_readonly_vm.cli.doctor import Finding
from pytest_readonly_vm.host.accel import Accelerator

ROOT = Path(__file__).parent.parent
TOP_LEVEL = {
    *(".ci", ".github", "benchmarks", "conftest_examples", "docs", "pytest_readonly_vm", "tests"),
    *(".gitignore", ".pre-commit-config.yaml", ".readthedocs.yaml", "Makefile", "hatch_build.py", "pyproject.toml"),
    *("CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "README.md", "SECURITY.md"),
}
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / ".github/pull_request_template.md"])
WORKFLOWS = {
    path.name: yaml.safe_load(path.read_text())
    for folder in (ROOT, ROOT / "conftest_examples/ci")
    for path in folder.glob(".github/workflows/*")
}
JOBS = {f"{name}: {job}": content for name, flow in WORKFLOWS.items() for job, content in flow["jobs"].items()}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

each_workflow = pytest.mark.parametrize("workflow", WORKFLOWS.values(), ids=list(WORKFLOWS))
each_job = pytest.mark.parametrize("job", JOBS.values(), ids=list(JOBS))


def test_the_top_level_holds_only_what_is_expected() -> None:
    if (ROOT / ".git").exists():
        command = [
            "git",
            "-c",
            "safe.directory=*",
            "-C",
            str(ROOT),
            "ls-files",
        ]  # it may be another user's
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found = {line.partition("/")[0] for line in done.stdout.splitlines()}
    else:  # unpacked from a source distribution, which adds a file of its own
        found = {path.name for path in ROOT.iterdir() if not ignored(path.name)} - {"PKG-INFO"}
    assert found == TOP_LEVEL


def ignored(name: str) -> bool:
    patterns = (ROOT / ".gitignore").read_text().split()
    return any(Path(name).match(pattern.rstrip("/")) for pattern in patterns)


@each_workflow
def test_a_workflow_may_read_the_repository_at_most(workflow: dict[str, Any]) -> None:
    assert workflow["permissions"] in ({}, {"contents": "read"})
    assert workflow["concurrency"]["group"]


@each_job
def test_a_job_ends_and_runs_what_is_pinned(job: dict[str, Any]) -> None:
    if "uses" in job:  # the jobs of another workflow of ours
        assert (ROOT / job["uses"]).is_file()
        return
    assert 0 < job["timeout-minutes"] <= 60
    assert re.fullmatch(r"ubuntu-\d\d\.04", job["runs-on"])
    for step in job["steps"]:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step.get("uses", f"run/run@{40 * '0'}"))
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


def test_an_action_is_pinned_to_one_commit_in_all_workflows_with_its_version_beside_it() -> None:
    pins: dict[str, set[str]] = {}
    for path in ROOT.glob("**/.github/workflows/*.yml"):
        for action, pin in re.findall(r"uses: ([\w-]+/[\w-]+)@(.*)", path.read_text()):
            assert re.fullmatch(r"[0-9a-f]{40} # v\d+\.\d+\.\d+", pin)
            pins.setdefault(action, set()).add(pin)
    assert not {action for action, found in pins.items() if len(found) > 1}


def test_only_the_job_that_publishes_can_say_who_it_is() -> None:
    powers = {name: set(job.get("permissions", {})) - {"contents"} for name, job in JOBS.items()}
    assert {name: power for name, power in powers.items() if power} == {
        "release.yml: publish": {"id-token", "attestations"}
    }
    publish = JOBS["release.yml: publish"]
    assert set(publish["needs"]) == {"tests", "build"}
    assert publish["environment"]
    assert WORKFLOWS["release.yml"][True] == {"push": {"tags": ["v*"]}}  # a key "on" is true for YAML
    assert "make package" in commands(JOBS["release.yml: build"])


@pytest.mark.parametrize(
    ("flow", "name", "runs", "keeps"),
    [
        ("tests.yml", "hosted", "make test", "failure()"),
        ("tests.yml", "containers", "make test", "failure()"),
        ("benchmarks.yml", "kvm", "make bench", "always()"),
    ],
)
def test_a_job_that_uses_machines_requires_kvm_before_it(flow: str, name: str, runs: str, keeps: str) -> None:
    job = JOBS[f"{flow}: {name}"]
    assert job["env"]["READONLY_VM_TEST_ACCEL"] == "kvm"
    assert WORKFLOWS[flow]["defaults"]["run"]["shell"] == "bash"  # a pipe fails with its first command
    required, used = (
        next(number for number, command in enumerate(commands(job)) if wanted in command)
        for wanted in ("readonly-vm doctor --json | .ci/require-kvm", runs)
    )
    assert required < used
    assert "actions/upload-artifact@" in job["steps"][-1]["uses"]
    assert job["steps"][-1]["if"] == keeps


def test_classifiers_name_the_pythons_of_the_workflow() -> None:
    tested = JOBS["tests.yml: hosted"]["strategy"]["matrix"]["python"]
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["project"]["classifiers"]))
    assert named == tested
    assert PROJECT["project"]["requires-python"] == f">={tested[0]}"


def test_systems_in_the_pages_are_those_of_the_workflow() -> None:
    images = JOBS["tests.yml: containers"]["strategy"]["matrix"]["image"]
    page = (ROOT / "CONTRIBUTING.md").read_text()
    assert {image for image in images if image.replace(":", " ").capitalize() not in page} == set()


def commands(job: dict[str, Any]) -> list[str]:
    return [step["run"] for step in job.get("steps", ()) if "run" in step]


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "SECURITY.md"])
def test_links_of_the_pages_lead_somewhere(page: str) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)]*)\)", (ROOT / page).read_text())
    assert targets
    assert not [target for target in targets if not (ROOT / target).exists()]


def test_what_pages_and_workflows_have_made_are_targets() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE)) | {".venv/.complete"}
    asked = {target for page in PAGES for target in re.findall(r"[`$] ?make ([a-z./]+)", page.read_text())}
    for job in JOBS.values():
        asked.update(re.findall(r"^make (\S+)", "\n".join(commands(job)), re.MULTILINE))
    assert {"test", "demo", "lint", "package", ".venv/.complete"} <= asked
    assert asked <= targets


@pytest.mark.parametrize("form", ["bug", "feature"])
def test_a_form_asks_for_what_is_needed(form: str) -> None:
    body = yaml.safe_load((ROOT / f".github/ISSUE_TEMPLATE/{form}.yml").read_text())["body"]
    fields = {field["id"]: field for field in body if "id" in field}
    assert all({"label"} <= set(field["attributes"]) for field in fields.values())
    if form == "bug":
        required = {name for name, field in fields.items() if field.get("validations", {}).get("required")}
        assert {"doctor", "image", "output"} <= required
        assert "readonly-vm doctor --json" in fields["doctor"]["attributes"]["label"]


def require_kvm(text: str, *, hosted: bool = False) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"GITHUB_ACTIONS": str(hosted).lower()}
    command = [ROOT / ".ci/require-kvm"]
    return subprocess.run(command, input=text, capture_output=True, text=True, env=environment, check=False)


def doctor(*findings: Finding) -> str:
    return json.dumps([asdict(finding) for finding in findings])


def found(accelerator: Accelerator, state: Any) -> str:
    return doctor(Finding("Python", "ok", "3"), Finding("accelerator", state, accelerator.describe()))


def test_kvm_that_was_proved_is_let_through() -> None:
    done = require_kvm(found(Accelerator("kvm", "proved by running a guest"), "ok"), hosted=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-2:] == [
        "::notice title=KVM is usable::kvm (proved by running a guest)",
        "KVM is usable: kvm (proved by running a guest)",
    ]


def test_no_kvm_is_an_error_that_says_why() -> None:
    text = found(Accelerator("tcg", "no KVM: 100 % of the guests hang"), "warn")
    done = require_kvm(text)
    assert (done.returncode, "::" in done.stdout) == (1, False)
    assert done.stderr == "KVM is NOT usable: tcg (no KVM: 100 % of the guests hang)\n"
    hosted = require_kvm(text, hosted=True)
    assert hosted.returncode == 1
    assert "::error title=KVM is NOT usable::tcg (no KVM: 100 %25 of the guests hang)" in hosted.stdout.splitlines()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (doctor(Finding("QEMU", "FAIL", "qemu-system-x86_64 is not installed")), "qemu-system-x86_64 is not installed"),
        ("[]", "doctor did not look for it"),
        ("", "there came: nothing"),
        ("Traceback (most recent\ncall last)", "there came: Traceback (most recent call last)"),
        ("3", "there came: 3"),
    ],
)
def test_nothing_that_proves_kvm_is_an_error(text: str, complaint: str) -> None:
    done = require_kvm(text)
    assert done.returncode == 1
    assert done.stderr.startswith("KVM is NOT proved: ")
    assert complaint in done.stderr


def test_a_tag_is_that_of_the_version_with_its_part_in_the_changelog() -> None:
    script, version = ROOT / ".ci/require-version", PROJECT["project"]["version"]
    assert subprocess.run([script, f"v{version}"], capture_output=True, check=False).returncode == 0
    for tag in (version, f"v{version}.1", "v9.9.9"):
        done = subprocess.run([script, tag], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (1, "")
        assert f"the version in pyproject.toml is {version}" in done.stderr


def test_no_test_names_an_accelerator_of_its_own() -> None:
    """But for those about one: the word in `tests.accelerator` decides for the suite."""
    named = re.compile(r"""accel["']?\s*[=:]\s*["']?(tcg|kvm)""")
    naming = {path.name for path in ROOT.glob("tests/**/*.py") if named.search(path.read_text())}
    about_one = {"test_accel.py", "test_accelerator.py", "test_key.py", "test_timeouts.py"}
    about_one |= {"test_architectures.py", "test_board.py"}  # of which KVM has but one
    assert naming <= about_one | {"test_refusals.py", "test_ssh_hosts.py"}  # where somebody may not open /dev/kvm
