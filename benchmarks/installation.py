"""Owns an environment of its own with the plugin as a user has it: a wheel, installed with what it depends on."""

import subprocess
import sys
from pathlib import Path

_REPOSITORY = Path(__file__).parent.parent


def install(folder: Path) -> Path:
    """Build the wheel and install it into a new environment below `folder`; return the Python there.

    pip has compiled all modules; pytest, which keeps bytecode of its own for those of plugins, has compiled none.

    :raises subprocess.CalledProcessError: that cannot be done, for example as no package index is to be reached.
    """
    wheels, environment = folder / "wheels", folder / "environment"
    python = environment / "bin" / "python"
    pip = ("-m", "pip", "--quiet", "--disable-pip-version-check")
    built_by_ours = ("--no-deps", "--no-build-isolation")  # which has the build system
    _run(sys.executable, *pip, "wheel", *built_by_ours, "--wheel-dir", str(wheels), str(_REPOSITORY))
    _run(sys.executable, "-m", "venv", str(environment))
    _run(str(python), *pip, "install", *map(str, wheels.iterdir()))
    return python


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
