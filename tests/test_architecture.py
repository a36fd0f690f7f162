"""Holds the house together: imports go downhill only, and each danger has one door."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "pytest_readonly_vm"
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
FLOORS = {"host": 1, "channels": 2, "machine": 3, "plugin": 4, "cli": 4}


def floor(module: Path) -> int:
    return FLOORS.get(module.parts[0], 0)


def imports(module: Path) -> set[str]:
    """Full names of the modules that a module imports, wherever in it; those for type checkers only are left out."""
    tree = ast.parse((PACKAGE / module).read_text())
    names: set[str] = set()
    hidden = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_imports_go_downhill(module: Path) -> None:
    for name in imports(module):
        first, *rest = name.split(".")
        if first == "pytest_readonly_vm" and rest:
            assert FLOORS.get(rest[0], 0) <= floor(module), f"{module} imports {name}, which is above it"


@pytest.mark.parametrize(
    ("danger", "doors"),
    [
        ("subprocess", {"host/process.py"}),
        ("qemu.qmp", {"channels/qmp.py"}),
        ("ctypes", {"host/confinement.py", "host/seal.py", "host/writers.py"}),
        (
            "threading",
            {
                "layer.py",
                "host/process.py",
                "host/loop.py",
                "host/once.py",
                "machine/lab.py",
                "start/prefetch.py",
                "start/templates.py",
                "plugin/timeouts.py",
            },
        ),
    ],
)
def test_each_danger_has_its_door(danger: str, doors: set[str]) -> None:
    users = {
        str(module)
        for module in MODULES
        if any(name.split(".")[0] == danger or name == danger for name in imports(module))
    }
    assert users <= doors


def makes_files(module: Path) -> bool:
    """Whether a module has a call that makes or overwrites a file of the host's."""
    for node in ast.walk(ast.parse((PACKAGE / module).read_text())):
        if isinstance(node, ast.Attribute) and node.attr in ("O_CREAT", "NamedTemporaryFile", "move", "copyfile"):
            return True
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            modes = [one.value for one in ast.walk(node) if isinstance(one, ast.Constant)]
            if node.func.attr in ("write_text", "write_bytes") and ast.unparse(node.func.value) != "self":
                return True
            if node.func.attr in ("open", "fdopen") and {"w", "wb", "a", "ab", "x", "xb", "r+b", "w+b"} & set(modes):
                return True
    return False


def test_files_come_to_places_of_the_users_by_the_outlet() -> None:
    """All others write in folders of the plugin's own, or ask the output_guard first."""
    own = {"channels/console.py", "channels/screen.py", "host/accel.py", "host/slots.py", "qemu/provision.py"}
    own |= {"evidence/capsule/restore.py", "plugin/output_folder.py"}
    asking = {"guest/tar_folder.py", "plugin/integrations.py"}
    makers = {str(module) for module in MODULES if makes_files(module)}
    assert {name for name in makers if not name.startswith("machine/start/")} <= own | asking | {"host/atomic_file.py"}


@pytest.mark.parametrize("module", [module for module in MODULES if floor(module) < 4], ids=str)
def test_only_the_plugin_floor_knows_pytest(module: Path) -> None:
    assert not {name for name in imports(module) if name.split(".")[0] in {"pytest", "_pytest"}}


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_no_file_outgrows_one_noun(module: Path) -> None:
    assert len((PACKAGE / module).read_text().splitlines()) <= 330


def test_loading_the_plugin_loads_nothing_heavy() -> None:
    code = (
        "import sys, pytest_readonly_vm.plugin; print(sorted({'asyncio', 'qemu', 'ctypes', 'json'} & set(sys.modules)))"
    )
    bare = "import sys, pytest; print(sorted({'asyncio', 'qemu', 'ctypes', 'json'} & set(sys.modules)))"
    loaded, before = (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
        for program in (code, bare)
    )
    assert loaded == before
