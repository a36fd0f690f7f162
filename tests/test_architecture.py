"""Holds the house together: imports go downhill only, and each danger has one door."""

import ast
import functools
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "pytest_readonly_vm"
FLOORS = (
    *("config", "host", "image", "sources", "remote", "channels", "qemu", "network", "disks"),
    *("guest", "start", "machine", "evidence", "plugin"),
)
"""From the ground up; below them are the modules beside the folders, level with the highest is ``cli``."""

MODULES = tuple(path.relative_to(PACKAGE) for path in sorted(PACKAGE.rglob("*.py")))


@functools.cache
def tree(module: Path) -> ast.Module:
    """Parsed when a test looks at it: a second, which no worker is to spend that only collects."""
    return ast.parse((PACKAGE / module).read_text())


def floor(module: Path) -> int:
    name = module.parts[0]
    if name == "__init__.py":  # the public face of all
        return len(FLOORS)
    return FLOORS.index({"cli": FLOORS[-1]}.get(name, name)) if len(module.parts) > 1 else -1


@functools.cache
def imports(module: Path) -> set[str]:
    """Full names of the modules that a module imports, wherever in it, also for type checkers only."""
    names: set[str] = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            parts = [f"{node.module}.{alias.name}" for alias in node.names]
            names.update(part if ours(part) or not ours(node.module) else node.module for part in parts)
    return names


def ours(name: str) -> Path | None:
    """The file of a module of the package."""
    top, *parts = name.split(".")
    if top != "pytest_readonly_vm" or not parts:
        return None
    file = Path(*parts)
    return next((path for path in (file.with_suffix(".py"), file / "__init__.py") if path in MODULES), None)


def modules_imported(module: Path) -> set[Path]:
    """The modules of the package among these."""
    return {file for name in imports(module) if (file := ours(name))}


def test_imports_go_downhill() -> None:
    uphill = [
        f"{module} imports {other}, which is above it"
        for module in MODULES
        for other in modules_imported(module)
        if floor(other) > floor(module)
    ]
    assert not uphill


def test_no_imports_go_in_circles() -> None:
    order = graphlib.TopologicalSorter({module: modules_imported(module) for module in MODULES})
    try:
        order.prepare()
    except graphlib.CycleError as error:
        pytest.fail(" imports ".join(map(str, reversed(error.args[1]))))


@pytest.mark.parametrize(
    ("danger", "doors"),
    [
        ("subprocess", {"host/process.py", "host/tool.py"}),
        ("qemu.qmp", {"channels/qmp.py"}),
        ("urllib3", {"sources/download/connections.py", "sources/download/web.py"}),
        ("ctypes", {"host/confinement.py", "host/seal.py", "host/writers.py"}),
        (
            "threading",
            {
                "config/prepared.py",
                "host/process.py",
                "host/loop.py",
                "host/once.py",
                "host/stopwatch.py",
                "sources/download/connections.py",
                "remote/at_once.py",
                "remote/patience.py",
                "machine/new_cluster.py",
                "machine/frame_match.py",
                "machine/lab.py",
                "machine/membership.py",
                "machine/networks.py",
                "start/prefetch.py",
                "start/frozen.py",
                "plugin/progress.py",
                "plugin/timeouts.py",
            },
        ),
    ],
)
def test_each_danger_has_its_door(danger: str, doors: set[str]) -> None:
    users = {str(module) for module in MODULES if any(f"{name}.".startswith(f"{danger}.") for name in imports(module))}
    assert users <= doors


def test_one_module_locks_files() -> None:
    assert {str(module) for module in MODULES if "flock" in (PACKAGE / module).read_text()} == {"host/locks.py"}


def makes_files(module: Path) -> bool:
    """Whether a module has a call that makes or overwrites a file of the host's."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Attribute) and node.attr in ("O_CREAT", "NamedTemporaryFile", "move", "copyfile"):
            return True
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            modes = [one.value for one in ast.walk(node) if isinstance(one, ast.Constant)]
            if node.func.attr in ("write_text", "write_bytes") and ast.unparse(node.func.value) != "self":
                return True
            if node.func.attr in ("open", "fdopen") and {"w", "wb", "a", "ab", "x", "xb", "r+b", "w+b"} & set(modes):
                return True
    return False


def test_files_come_to_places_of_the_users_by_the_output_guard() -> None:
    """All others write in folders of the plugin's own, or ask the output guard first."""
    own = {
        "channels/console.py",
        "channels/screen.py",
        "host/accel.py",
        "host/locks.py",
        "host/slots.py",
        "disks/raw_disk.py",
        "machine/host_disk.py",
        "network/switch/program.py",  # into descriptors that it is given
        "sources/kept_disk.py",
        "sources/download/part_file.py",
        "sources/unpack.py",
        "remote/assembly.py",
        "qemu/firmware.py",
        "qemu/provision.py",
    }
    own |= {"evidence/capsule/restore.py", "plugin/output_folder.py", "disks/damage.py"}
    asking = {"guest/tar_folder.py", "plugin/integrations.py"}
    makers = {str(module) for module in MODULES if makes_files(module)}
    assert {name for name in makers if not name.startswith("start/")} <= own | asking | {"host/atomic_file.py"}


def test_only_the_plugin_floor_knows_pytest() -> None:
    knowing = {
        str(module)
        for module in MODULES
        if floor(module) < FLOORS.index("plugin")
        and any(name.split(".")[0] in {"pytest", "_pytest"} for name in imports(module))
    }
    assert not knowing


def test_no_file_outgrows_one_noun() -> None:
    assert not {str(module) for module in MODULES if len((PACKAGE / module).read_text().splitlines()) > 330}


def test_errors_have_their_cause_in_their_words_and_not_in_a_chain() -> None:
    """A second traceback would show code of ours; that each `raise` in a handler says from what is held by ruff."""
    raises = [(module, node) for module in MODULES for node in ast.walk(tree(module)) if isinstance(node, ast.Raise)]
    assert not [
        f"{module}: {ast.unparse(node)}" for module, node in raises if node.cause and ast.unparse(node.cause) != "None"
    ]


def test_modules_use_no_private_members_of_others() -> None:
    """Of an object of another module, which is known by it being neither `self` nor made of a class of this one."""
    assert not [f"{module}: {ast.unparse(node)}" for module in MODULES for node in private_members(tree(module))]


def private_members(tree: ast.Module) -> Iterator[ast.Attribute]:
    own = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
    }
    own |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr not in own and is_private(node.attr):
            of_self = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls", "os")
            if not of_self:
                yield node


def is_private(name: str) -> bool:
    public = ("_replace", "_current_frames")  # of named tuples and of `sys`, whose documentation has them
    return name.startswith("_") and not name.endswith("__") and name not in public


def test_what_a_run_without_a_machine_may_load_is_not_heavy() -> None:
    """As when a setting is given and no test has a machine; what other runs load, says `tests/plugin/test_door.py`."""
    heavy = "print(sorted({'asyncio', 'qemu', 'ctypes', 'json'} & set(sys.modules)))"
    loaded, before = (
        subprocess.run(
            [sys.executable, "-c", f"import sys, {modules}; {heavy}"], capture_output=True, check=True
        ).stdout
        for modules in ("pytest_readonly_vm.plugin.hooks, pytest_readonly_vm.plugin.ladder", "pytest")
    )
    assert loaded == before
