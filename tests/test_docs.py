"""The documentation says what is true: names, tables and links are checked, and its examples are run.

`python -m tests.test_docs` writes the table of settings in README.md anew.
"""

import inspect
import re
import shlex
import subprocess
from pathlib import Path

import pytest

import pytest_readonly_vm
from pytest_readonly_vm import errors
from pytest_readonly_vm.channels.console import Console
from pytest_readonly_vm.channels.qmp import Qmp
from pytest_readonly_vm.channels.screen import Screen
from pytest_readonly_vm.config.settings import SCOPES, SETTINGS, VmConfig
from pytest_readonly_vm.machine.vm import VirtualMachine
from tests.conftest import SMALL
from tests.forked import PLAIN
from tests.guests import bootsector
from tests.guests.debian import debian
from tests.guests.tiny_servers import tiny_with_servers
from tests.qemu.waiting import GENEROUS
from tests.templates import templates

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = (README, *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "conftest_examples").glob("*/README.md")))

ON_THE_LOOP = {
    *("attempt", "hand_over", "found", "command", "next_event", "connect", "disconnect", "listeners"),
    *("catch_up", "next_news", "position", "since", "seen", "typed", "picture", "give", "transcript"),
}
"""Members that the package itself uses, on its own thread."""

LOGIN = "debian login: "
A_LONG_TIME = 1200

_BEGIN, _END = "<!-- settings: written by `make docs` -->\n", "<!-- end of settings -->\n"
_FENCE = re.compile(r"(?:<!-- (?P<remark>[^>]*) -->\n)?```(?P<language>\w+)\n(?P<text>.*?)```", re.DOTALL)


def settings_table() -> str:
    """The table of README.md, from the settings themselves."""
    lines = [
        "| marker keyword | option | environment | ini | default | meaning |",
        "|---|---|---|---|---|---|",
    ]
    for name, setting in SETTINGS.items():
        meaning, _, default = setting.help.partition(" (default: ")
        default = default.removesuffix(")") or ("off" if setting.kind is bool else "none")
        if getattr(VmConfig(), name) not in (None, ()):
            default = f"`{default}`"
        value = "" if setting.kind is bool else f"={setting.metavar}"
        option = f"--vm-{name.replace('_', '-')}{value}"
        cells = (f"`{name}`", f"`{option}`", f"`PYTEST_VM_{name.upper()}`", f"`vm_{name}`", default, meaning)
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def write_settings_table() -> None:
    before, _, rest = README.read_text().partition(_BEGIN)
    README.write_text(before + _BEGIN + settings_table() + _END + rest.partition(_END)[2])


def fences(page: Path, language: str) -> list[tuple[str, str]]:
    """The code blocks of a page in a language, each with the remark in front of it."""
    found = _FENCE.finditer(page.read_text())
    return [(match["remark"] or "", match["text"]) for match in found if match["language"] == language]


def members(kind: type) -> set[str]:
    """What a class offers to tests."""
    return {name for name, _ in inspect.getmembers(kind) if not name.startswith("_")} - ON_THE_LOOP


def test_table_of_settings_is_that_of_the_code() -> None:
    text = README.read_text()
    assert text.partition(_BEGIN)[2].partition(_END)[0] == settings_table(), "run `make docs`"


def test_default_of_every_setting_is_said_in_its_help() -> None:
    default = VmConfig()
    for name, setting in SETTINGS.items():
        value = getattr(default, name)
        if isinstance(value, str | float | int) and not isinstance(value, bool):
            sizes = {"memory": "1G", "cache_size": "10G"}
            said = sizes.get(name) or (f"{value:g}" if isinstance(value, float) else str(value))
            assert f"(default: {said})" in setting.help, name


@pytest.mark.parametrize("name", sorted(set(pytest_readonly_vm.__all__)))
def test_every_public_name_is_in_the_readme(name: str) -> None:
    assert f"`{name}`" in README.read_text()


def test_every_error_has_its_row() -> None:
    classes = [name for name, cls in vars(errors).items() if inspect.isclass(cls) and issubclass(cls, Exception)]
    rows = re.findall(r"^\| `(\w+)` \|", README.read_text(), re.MULTILINE)
    assert {name for name in classes if not name.startswith("_")} <= set(rows)


def test_every_fixture_is_in_the_readme() -> None:
    shared = [f"{rung}_{scope}" for rung in ("readonly_vm", "vm_config") for scope in SCOPES[1:]]
    text = README.read_text()
    for fixture in ["readonly_vm", "readonly_vm_factory", "vm_config", *shared, *(f"vm_{name}" for name in SETTINGS)]:
        assert f"`{fixture}`" in text


@pytest.mark.parametrize("kind", [VirtualMachine, Qmp, Console, Screen])
def test_every_member_is_in_the_readme(kind: type) -> None:
    code = " ".join(re.findall(r"`([^`\n]+)`", README.read_text()))
    assert {name for name in members(kind) if not re.search(rf"\b{name}\b", code)} <= {"close"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_names_and_links_exist(page: Path) -> None:
    text = page.read_text()
    options = {f"--vm-{name.replace('_', '-')}" for name in SETTINGS}
    assert set(re.findall(r"--vm-[a-z]+(?:-[a-z]+)*", text)) <= options
    assert set(re.findall(r"PYTEST_VM_([A-Z_]+[A-Z])", text)) <= {name.upper() for name in SETTINGS}
    headings = {
        re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in re.findall(r"^#+ (.*)", text, re.M)
    }
    for target in re.findall(r"\]\((?!https?:)([^)#]*)(?:#[^)]*)?\)", text):
        assert (page.parent / target).exists(), target
    for anchor in re.findall(r"\]\(#([^)]*)\)", text):
        assert anchor in headings


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


def test_code_on_the_pages_works(pytester: pytest.Pytester) -> None:
    """On a guest that has a login prompt and repeats what it is told."""
    modules = examples("")
    pytester.makepyfile(**modules)
    image = bootsector.write_image(pytester.path / "base.img", bootsector.echo(LOGIN))
    options = (f"--vm-image={image}", *SMALL, f"--vm-ready={VmConfig().ready}", "-v", *PLAIN)
    passed(modules, pytester.runpytest_subprocess(*options, timeout=2 * GENEROUS))


@pytest.mark.timeout(A_LONG_TIME)
def test_code_on_the_pages_works_on_debian(pytester: pytest.Pytester) -> None:
    modules = examples("on Debian")
    pytester.makepyfile(**modules)
    options = (f"--vm-image={debian()}", f"--vm-cache={templates()}", "--vm-boot-timeout=600", "-v")
    passed(modules, pytester.runpytest_subprocess(*options, *PLAIN, timeout=A_LONG_TIME))


def test_code_on_the_pages_works_on_a_guest_with_sshd(pytester: pytest.Pytester) -> None:
    """Of which each boots in a way of its own, that is soon over."""
    modules = examples("on a guest with sshd")
    pytester.makepyfile(**modules)
    guest = tiny_with_servers()
    image = (f"--vm-image={guest.disk}", f"--vm-kernel={guest.kernel}", f"--vm-initrd={guest.initrd}")
    options = (*image, f"--vm-append={guest.append}", "--vm-memory=256M", f"--vm-cache={templates()}", "-v")
    passed(modules, pytester.runpytest_subprocess(*options, *PLAIN, timeout=2 * GENEROUS))


def test_write_back_commands_work(pytester: pytest.Pytester) -> None:
    [commands] = [text for remark, text in fences(ROOT / "docs/read-only.md", "console") if remark == "write-back"]
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
    assert pytester.runpytest_subprocess(*options, timeout=120).ret == pytest.ExitCode.OK
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


if __name__ == "__main__":
    write_settings_table()
