"""Draws docs/images/run.svg, a run as it really was in a terminal: ``python docs/images/run.py``.

The guest is the Debian of the project's own tests, which is built if it is not there. Two things are not as they were:
the folder of the run is called ``~/project``, and lines of pytest's about itself are left out. Settings may be given by
the environment; where there is a KVM that does not run guests, ``PYTEST_VM_ACCEL=tcg`` keeps the lines short.
"""

import io
import os
import pty
import re
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

ROOT = Path(__file__).parents[2]
COLUMNS = 104

TESTS = """
def test_service(readonly_vm):
    readonly_vm.wait_for_unit("ssh")


def test_break_everything(readonly_vm):
    readonly_vm.run("rm -rf /etc/passwd /home /usr/share")


def test_and_it_is_there_again(readonly_vm):
    assert "root" in readonly_vm.read_text("/etc/passwd")


def test_panic(readonly_vm):
    with readonly_vm.expect_panic() as panic:
        readonly_vm.run("echo c >/proc/sysrq-trigger")
    assert "sysrq" in panic.text
"""

# A dark terminal with a border of its own, to be read on a light page and on a dark one. No font is fetched.
_FORMAT = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{
    font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
    font-size: {char_height}px; line-height: {line_height}px; font-variant-east-asian: full-width;
}}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""

_PROGRESS = re.compile(r"\x1bD\x1b\[A\x1b7.*?\x1b8", re.DOTALL)
"""A line of progress, from where the cursor's place is remembered to where it goes back and nothing is left."""

_ANSI = [(110, 118, 129), (255, 123, 114), (86, 211, 100), (227, 179, 65), (121, 192, 255), (210, 168, 255)]
_THEME = TerminalTheme((22, 27, 34), (230, 237, 243), [*_ANSI, (86, 212, 221), (230, 237, 243)])


def run(folder: Path, image: Path) -> str:
    """What pytest prints, with colours, in a terminal of that width."""
    (folder / "test_service.py").write_text(TESTS)
    (folder / "base.qcow2").write_bytes(image.read_bytes())
    plugins = ("-p", "pytest_timeout", "-p", "pytest_readonly_vm.plugin", "-p", "no:cacheprovider")
    options = ("-v", "--color=yes", "--vm-image=base.qcow2", f"--vm-cache={folder / 'cache'}")
    command = ("env", "TERM=xterm", sys.executable, "-m", "pytest", *plugins, *options)
    printed = bytearray()

    def read(descriptor: int) -> bytes:
        piece = os.read(descriptor, 4096)
        printed.extend(piece)
        return piece

    os.environ |= {"COLUMNS": str(COLUMNS), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    os.chdir(folder)
    if status := pty.spawn(command, read):
        raise SystemExit(f"pytest has failed: {os.waitstatus_to_exitcode(status)}")
    left = _PROGRESS.sub("", printed.decode())
    return left.replace("\r\n", "\n").replace(str(folder), "~/project")


def picture(printed: str) -> str:
    """The same as SVG."""
    lines = [line.rpartition("\r")[2] for line in printed.split("\n")]
    is_of_no_interest = ("platform ", "cachedir: ", "plugins: ", "rootdir: ")
    kept = [line for line in lines if not line.startswith(is_of_no_interest)]
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text("$ pytest -v --vm-image=base.qcow2", style="bold"))
    console.print(Text.from_ansi("\n".join(kept)))
    return console.export_svg(title="pytest-readonly-vm", theme=_THEME, code_format=_FORMAT, unique_id="run")


def main() -> None:
    sys.path.insert(0, str(ROOT))
    from tests.guests.debian import debian

    target = Path(__file__).with_suffix(".svg")
    with tempfile.TemporaryDirectory() as folder:
        target.write_text(picture(run(Path(folder).resolve(), debian())))


if __name__ == "__main__":
    main()
