"""The documentation says what is true: names and links are checked, and its examples are run.

`make docs` builds the site, which has the settings, the classes and the command line from the code.
"""

import ast
import inspect
import io
import re
import shlex
import subprocess
import sys
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
from readme_renderer import markdown
from settings_list import described

import pytest_readonly_vm
from hatch_build import description
from pytest_readonly_vm import errors
from pytest_readonly_vm.channels.console import Console
from pytest_readonly_vm.channels.qmp import Qmp
from pytest_readonly_vm.channels.screen import Screen
from pytest_readonly_vm.cli import COMMANDS
from pytest_readonly_vm.config.settings import SETTINGS, VmConfig
from pytest_readonly_vm.config.table import OPTIONS, SCOPES
from pytest_readonly_vm.machine.vm import VirtualMachine
from tests.conftest import SMALL
from tests.forked import PLAIN
from tests.guests import bootsector
from tests.guests.debian import debian
from tests.guests.tiny_servers import tiny_with_servers
from tests.templates import templates

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
EXAMPLES = sorted((ROOT / "conftest_examples").glob("*/README.md"))
PAGES = (ROOT / "README.md", *sorted(DOCS.rglob("*.md")), *EXAMPLES)

ON_THE_LOOP = {
    *("attempt", "hand_over", "found", "command", "next_event", "connect", "disconnect", "listeners"),
    *("ask", "begin_test", "has_used_disks", "tail_of_test", "without_most"),
    *(
        "begins_with",
        "card",
        "checkpoints",
        "first_places",
        "follow",
        "go_back_to",
        "leave_networks",
        "on_reset",
        "places",
        "settle",
        "settle_again",
        "take_over",
        "told",
        "was_formed_with",
        "was_reset",
    ),
    *("catch_up", "next_news", "position", "since", "seen", "typed", "picture", "give", "transcript"),
}
"""Members that the package itself uses, on its own thread."""

RUNGS = ("readonly_vm", "vm_config", "vm_private_network")
LOGIN = "debian login: "
A_LONG_TIME = 1200

_FENCE = re.compile(r"(?:<!-- (?P<remark>[^>]*) -->\n)?```(?P<language>\w+)\n(?P<text>.*?)```", re.DOTALL)


def fences(page: Path, language: str) -> list[tuple[str, str]]:
    """The code blocks of a page in a language, each with the remark in front of it."""
    found = _FENCE.finditer(page.read_text())
    return [(match["remark"] or "", match["text"]) for match in found if match["language"] == language]


def members(kind: type) -> set[str]:
    """What a class offers to tests."""
    return {name for name, _ in inspect.getmembers(kind) if not name.startswith("_")} - ON_THE_LOOP


def test_default_of_every_setting_is_said_in_its_help() -> None:
    default = VmConfig()
    for name, option in OPTIONS.items():
        value = getattr(default, name)
        if isinstance(value, str | float | int) and not isinstance(value, bool):
            sizes = {"memory": "1G", "cache_size": "10G", "image_store_size": "50G"}
            said = sizes.get(name) or (f"{value:g}" if isinstance(value, float) else str(value))
            assert f"(default: {said})" in option.help, name


def test_every_setting_has_its_place_in_the_reference() -> None:
    lists = re.findall(r"^```{settings}\n(.*?)```", (REFERENCE / "settings.md").read_text(), re.M | re.S)
    assert sorted(" ".join(lists).split()) == sorted(SETTINGS)


def test_what_the_site_says_of_a_setting_has_all_its_names() -> None:
    text = described("cache_size")
    assert "{confval} cache_size" in text
    assert "How much the frozen guests may take there. *Default:* `10G`\n" in text
    assert "`--vm-cache-size=SIZE` · `PYTEST_VM_CACHE_SIZE` · `vm_cache_size`" in text
    assert "`--vm-no-cache` ·" in described("no_cache")


@pytest.mark.parametrize("name", sorted(set(pytest_readonly_vm.__all__)))
def test_every_public_name_is_in_the_reference(name: str) -> None:
    text = "".join(page.read_text() for page in REFERENCE.glob("*.md"))
    assert re.search(rf"^\.\. auto\w+:: pytest_readonly_vm\.{name}\b", text, re.M)


def test_every_error_has_its_row() -> None:
    classes = [name for name, cls in vars(errors).items() if inspect.isclass(cls) and issubclass(cls, Exception)]
    rows = re.findall(r"^\| `(\w+)` \|", (REFERENCE / "errors.md").read_text(), re.MULTILINE)
    assert {name for name in classes if not name.startswith("_")} <= set(rows)


def test_every_fixture_is_in_the_reference() -> None:
    shared = [f"{rung}_{scope}" for rung in RUNGS for scope in SCOPES[1:]]
    text = (REFERENCE / "fixtures.md").read_text()
    for fixture in ["readonly_vm_factory", *RUNGS, *shared]:
        assert f"`{fixture}`" in text


@pytest.mark.parametrize("kind", [VirtualMachine, Qmp, Console, Screen])
def test_every_member_is_in_the_overview_of_the_machine(kind: type) -> None:
    code = " ".join(re.findall(r"`([^`\n]+)`", (REFERENCE / "machine.md").read_text()))
    assert {name for name in members(kind) if not re.search(rf"\b{name}\b", code)} <= {"close"}


def test_every_example_is_on_the_site() -> None:
    shown = re.findall(r"^## (\w+)\n\n```{example} (\w+)$", (DOCS / "examples.md").read_text(), re.M)
    assert shown == [(page.parent.name, page.parent.name) for page in EXAMPLES]


def test_every_command_is_on_the_site() -> None:
    assert re.findall(r"^```{command-help} (\w+)$", (REFERENCE / "command.md").read_text(), re.M) == list(COMMANDS)


def anchors(page: Path) -> set[str]:
    """What the headings of a page are reached by."""
    titles = re.findall(r"^#+ (.*)", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_names_and_links_exist(page: Path) -> None:
    text = page.read_text()
    options = {f"--vm-{name.replace('_', '-')}" for name in SETTINGS}
    assert set(re.findall(r"--vm-[a-z]+(?:-[a-z]+)*", text)) <= options
    assert set(re.findall(r"PYTEST_VM_([A-Z_]+[A-Z])", text)) <= {name.upper() for name in SETTINGS}
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", text):
        to = page.parent / target if target else page
        assert to.exists(), target
        assert not anchor or anchor in anchors(to), f"{target}#{anchor}"


def sentences() -> set[str]:
    """The texts in the package's source, with … for what is put into them."""
    found = set()
    for path in Path(pytest_readonly_vm.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                found.add("".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values))  # type: ignore[misc]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


def test_troubleshooting_is_by_sentences_that_are_said() -> None:
    said = "\n".join(sentences())
    headings = re.findall(r"^### (.*)", (DOCS / "troubleshooting.md").read_text(), re.M)
    assert len(headings) > 30
    assert [heading for heading in headings if heading not in said] == []


@pytest.mark.parametrize("language", ["ini", "toml"])
def test_settings_on_the_pages_are_read(pytester: pytest.Pytester, language: str) -> None:
    blocks = [text for page in PAGES for _, text in fences(page, language) if re.search(r"^vm_\w+ =", text, re.M)]
    assert len(blocks) > 1
    for text in blocks if language == "ini" or pytest.version_tuple >= (9,) else ():
        pytester.path.joinpath("pyproject.toml" if language == "toml" else "pytest.ini").write_text(text)
        config = pytester.parseconfigure("--strict-config", "-p", "no:asyncio")
        for key in re.findall(r"^(vm_\w+) =", text, re.M):
            assert config.getini(key), key


def test_description_on_the_package_index(tmp_path: Path) -> None:
    """It renders as the index renders it, and no link or picture of it leads to a file that is not there."""
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path], cwd=ROOT, check=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        [name] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = message_from_bytes(wheel.read(name))
    assert metadata["Description-Content-Type"] == "text/markdown"
    complaints = io.StringIO()
    html = markdown.render(str(metadata.get_payload()), stream=complaints)
    assert html
    assert not complaints.getvalue()
    assert "<table>" in html
    assert re.findall(r'(?:href|src)="(?!https?:|#)([^"]*)"', html) == []


def test_links_of_the_description_lead_to_the_source() -> None:
    readme = "![run](docs/run.svg)\n\nSee [`this`](docs/a.md#b) and [that](https://example.org/c)."
    place = "https://example.org/me/project"
    assert description(readme, place) == (
        f"![run]({place}/raw/HEAD/docs/run.svg)\n\n"
        f"See [`this`]({place}/blob/HEAD/docs/a.md#b) and [that](https://example.org/c)."
    )
    assert description(readme, None).strip() == "See `this` and [that](https://example.org/c)."


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


def examples(remark: str) -> dict[str, str]:
    """The tests on the pages that have this remark, as modules by names that tell the page."""
    return {
        f"test_{re.sub(r'[^a-zA-Z]+', '_', str(page.relative_to(ROOT)))}_{number}": text
        for page in PAGES
        for number, (remarked, text) in enumerate(fences(page, "python"), 1)
        if "def test_" in text and remarked == remark
    }


def passed(modules: dict[str, str], result: pytest.RunResult) -> None:
    """Fail unless every test of each module has passed, in a run with ``-v``."""
    assert result.ret == pytest.ExitCode.OK
    for name, text in modules.items():
        found = [line for line in result.outlines if line.startswith(f"{name}.py::") and " PASSED" in line]
        assert len(found) >= text.count("def test_"), name


@pytest.mark.timeout(A_LONG_TIME)
def test_code_on_the_pages_works(pytester: pytest.Pytester) -> None:
    """On a guest that has a login prompt and repeats what it is told."""
    modules = examples("")
    pytester.makepyfile(**modules)
    image = bootsector.write_image(pytester.path / "base.img", bootsector.echo(LOGIN))
    options = (f"--vm-image={image}", *SMALL, f"--vm-ready={VmConfig().ready}", "-v", *PLAIN)
    passed(modules, pytester.runpytest_subprocess(*options))


@pytest.mark.timeout(A_LONG_TIME)
def test_code_on_the_pages_works_on_debian(pytester: pytest.Pytester) -> None:
    modules = examples("on Debian")
    pytester.makepyfile(**modules)
    options = (f"--vm-image={debian()}", f"--vm-cache={templates()}", "--vm-boot-timeout=600", "-v")
    passed(modules, pytester.runpytest_subprocess(*options, *PLAIN, timeout=A_LONG_TIME))


@pytest.mark.timeout(A_LONG_TIME)
def test_code_on_the_pages_works_on_a_guest_with_sshd(pytester: pytest.Pytester) -> None:
    """Of which each boots in a way of its own, that is soon over."""
    modules = examples("on a guest with sshd")
    pytester.makepyfile(**modules)
    guest = tiny_with_servers()
    image = (f"--vm-image={guest.disk}", f"--vm-kernel={guest.kernel}", f"--vm-initrd={guest.initrd}")
    options = (*image, f"--vm-append={guest.append}", "--vm-memory=256M", f"--vm-cache={templates()}", "-v")
    passed(modules, pytester.runpytest_subprocess(*options, *PLAIN))


def test_write_back_commands_work(pytester: pytest.Pytester) -> None:
    [commands] = [
        text for remark, text in fences(DOCS / "explanation/read-only.md", "console") if remark == "write-back"
    ]
    raw = bootsector.write_image(pytester.path / "base.img", bootsector.writer(LOGIN))
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", raw, "base.qcow2"], check=True)
    pytester.makepyfile(
        """
        def test_keep(readonly_vm):
            readonly_vm.console.expect("written")
            readonly_vm.qmp.execute("quit")
        """
    )
    options = ("--vm-image=base.qcow2", *SMALL, "--vm-ready=none", "--vm-snapshot=overlay", "--vm-keep=always")
    assert pytester.runpytest_subprocess(*options).ret == pytest.ExitCode.OK
    [kept] = (pytester.path / "test-results").rglob("overlay.qcow2")
    kept.rename("overlay.qcow2")

    for line in commands.splitlines():
        subprocess.run(shlex.split(line.removeprefix("$ "), comments=True), check=True)

    assert data_sector("base.qcow2") == bootsector.PRISTINE
    assert data_sector("new.qcow2") == bootsector.MODIFIED
    assert data_sector("moved.qcow2") == bootsector.MODIFIED


def data_sector(image: str) -> bytes:
    """The first bytes of the sector that the guest `writer` writes."""
    subprocess.run(["qemu-img", "convert", "-O", "raw", image, "contents.raw"], check=True)
    return Path("contents.raw").read_bytes()[bootsector.DATA_SECTOR * bootsector.SECTOR_SIZE :][:8]
