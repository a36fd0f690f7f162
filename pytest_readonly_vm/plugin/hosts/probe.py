"""Owns the question to a host whether workers can run there, and the one sentence that says why not.

The host is asked as execnet asks it: by the same command, which starts Python there and has it read one line. So what
would end a worker, or the whole run in an internal error of xdist, is found before, and told by its name.
"""

import inspect
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from pytest_readonly_vm.host.tool import Completed, run_tool
from pytest_readonly_vm.printable import line

PATIENCE = 120.0
"""Seconds for a host to answer: it imports pytest and the project's ``conftest.py``, and may prove KVM by a guest."""
_SHORT = 30.0
_MOST_LINES = 50
_MARK = "readonly-vm says "
_PACKAGE = "pytest-readonly-vm"
_NO_SSH = 255
_NO_COMMAND = (126, 127)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a host has said."""

    refused: str | None
    """Why no worker is to be started there; None if they can."""
    lines: tuple[str, ...] = ()
    """What is to be told of the host at the beginning of the run."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a host is asked."""

    spec: Any
    """execnet's, of one of its workers, with the folder in which pytest is to run there."""
    arguments: list[str]
    """Of pytest."""
    is_needed: bool
    """Whether it has to have this plugin."""


def ask_all(questions: Sequence[Question]) -> list[Verdict]:
    """Ask hosts at the same time; each as `ask`."""
    with ThreadPoolExecutor(max(1, min(len(questions), 16))) as pool:
        return list(pool.map(ask, questions))


def ask(question: Question) -> Verdict:
    """Ask a host."""
    spec = question.spec
    wanted = {
        "folder": spec.chdir,
        "arguments": question.arguments,
        "is_needed": question.is_needed,
        "version": version(_PACKAGE),
        "code": _code(),
        "mark": _MARK,
        "env": spec.env,
    }
    began = time.monotonic()
    done = _run(spec, f"ASKED = {json.dumps(wanted)!r}\n{_PROGRAM}", PATIENCE)
    if done is None:
        return Verdict("there is no ssh here; on Debian and Ubuntu install openssh-client")
    before, mark, said = done.stdout.rpartition(_MARK)
    if not mark:
        return Verdict(_silence(spec, done, time.monotonic() - began))
    if before.strip():
        return Verdict(f"its shell prints {line(before.strip(), 60)!r} before Python starts, which is not for execnet")
    try:
        answer = json.loads(said)
        refused = answer.get("refused")
        lines = tuple(str(one) for one in answer.get("lines", ())[:_MOST_LINES])
    except (ValueError, AttributeError, TypeError):
        return Verdict("what it answered is not understood")
    return Verdict(None if refused is None else line(str(refused)), lines)


def is_reachable(spec: Any) -> str | None:
    """Why no Python can be started on a host any more; None if it can."""
    done = _run(spec, f"print({_MARK!r})", _SHORT)
    return None if done is not None and _MARK in done.stdout else _silence(spec, done, _SHORT) if done else "no ssh"


def _run(spec: Any, program: str, patience: float) -> Completed | None:
    from execnet.gateway_io import ssh_args, vagrant_ssh_args  # which xdist has loaded

    argv = ssh_args(spec) if spec.ssh else vagrant_ssh_args(spec)
    try:
        return run_tool(argv, timeout=patience, stdin=f"{program!r}\n".encode())
    except OSError:
        return None


def _silence(spec: Any, done: Completed, seconds: float) -> str:
    """Why there was no answer."""
    words = [one.strip() for one in done.stderr.splitlines() if one.strip() and not one.startswith("Warning: ")]
    said = line(words[-1]) if words else ""
    if done.returncode is None:
        return f"it did not answer within {seconds:.0f} s{f' ({said})' if said else ''}"
    if done.returncode == _NO_SSH:
        return f"ssh cannot log in: {said or 'it does not say why'}"
    if done.returncode in _NO_COMMAND:
        return f"there is no {spec.python or 'python'} ({said}); name it by //python=PATH behind the host"
    return f"Python ended there with status {done.returncode}{f': {said}' if said else ''}"


def _code() -> str:
    """A digest of the plugin's program: versions of checkouts are the same for months. Runs here and there."""
    import hashlib
    from importlib.util import find_spec
    from pathlib import Path

    found = find_spec("pytest_readonly_vm")
    folder = Path(str(found and found.origin)).parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)} ".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _on_the_host() -> None:
    """What runs there; its text is sent. It cannot rely on anything but Python."""
    import json
    import os
    import sys

    asked = json.loads(ASKED)  # type: ignore[name-defined] # noqa: F821

    def answer(**what: object) -> None:
        sys.stdout.write(asked["mark"] + json.dumps(what) + "\n")
        sys.stdout.flush()

    def look() -> object:
        os.environ.update(asked["env"])
        try:
            os.chdir(asked["folder"])
        except OSError as error:
            found = f"{asked['folder']}: {error.strerror}"
            return {"refused": found + "; name the folder of the checkout there by //chdir=PATH behind the host"}
        here = os.getcwd()  # noqa: PTH109
        sys.path.insert(0, here)  # as xdist does
        os.environ["PYTHONPATH"] = here + os.pathsep + os.environ.get("PYTHONPATH", "")
        try:
            from importlib.metadata import PackageNotFoundError, version

            for package in ("pytest", "pytest-xdist", "pytest-readonly-vm"):
                version(package)
        except PackageNotFoundError:
            if package == "pytest-readonly-vm" and not asked["is_needed"]:
                return {}
            return {"refused": package + " is not installed for " + sys.executable + "; install it, or name another "
                    "Python by //python=PATH behind the host"}  # fmt: skip
        there = version("pytest-readonly-vm")
        if there != asked["version"]:
            return {"refused": "it has pytest-readonly-vm " + there + ", and here is " + asked["version"]
                    + "; install the same on both"}  # fmt: skip
        if _code() != asked["code"]:
            return {"refused": "it has another pytest-readonly-vm " + there + " than there is here; install the same"}
        from pytest_readonly_vm.plugin.hosts.check import examine

        return examine(asked["arguments"])

    try:
        found = look()
    except Exception as error:
        found = {"refused": type(error).__name__ + ": " + str(error)}
    answer(**found)  # type: ignore[arg-type]
    sys.stderr.flush()
    os._exit(0)  # whatever a conftest.py has started


_PROGRAM = inspect.getsource(_code) + inspect.getsource(_on_the_host) + "\n_on_the_host()\n"
