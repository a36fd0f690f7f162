"""Owns helper tools that run to their end, such as qemu-img: within a time, without a shell, their output kept."""

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_readonly_vm.host.confinement import Confinement


@dataclass(frozen=True, slots=True)
class Completed:
    """How a short-lived helper tool ended. `returncode` is None when it was killed at its deadline."""

    argv: tuple[str, ...]
    returncode: int | None
    stdout: str
    stderr: str


def run_tool(
    argv: Sequence[str],
    *,
    timeout: float,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    stdin: bytes = b"",
) -> Completed:
    """Run a helper tool to its end, at most `timeout` seconds, without a shell.

    :raises OSError: it cannot be started.
    """
    confinement = Confinement(None)
    try:
        done = subprocess.run(
            argv,
            input=stdin,
            capture_output=True,
            timeout=timeout,
            check=False,
            env=env,
            pass_fds=tuple(pass_fds),
            preexec_fn=confinement,
        )
    except subprocess.TimeoutExpired as expired:
        return Completed(tuple(argv), None, _decoded(expired.stdout), _decoded(expired.stderr))
    except subprocess.SubprocessError:
        raise confinement.failure() from None
    return Completed(tuple(argv), done.returncode, _decoded(done.stdout), _decoded(done.stderr))


def _decoded(data: bytes | None) -> str:
    return (data or b"").decode(errors="replace")
