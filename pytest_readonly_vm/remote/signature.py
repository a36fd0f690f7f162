"""Owns signatures of parcels: those of OpenSSH, by the keys and files that people have for Git already.

What is signed is a text of three lines with key and manifest's digest, in the namespace ``readonly-vm``, so that a
signature of a commit or of a file is none of a parcel. See ``SIGNATURES`` and ``ALLOWED SIGNERS`` in ssh-keygen(1).
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from pytest_readonly_vm.errors import ConfigurationError, HostError
from pytest_readonly_vm.host.os_errors import explain
from pytest_readonly_vm.host.tool import Completed, run_tool
from pytest_readonly_vm.printable import line

NAMESPACE = "readonly-vm"
_PATIENCE = 60.0  # a key on a token wants to be touched
_ARMOUR = "-----BEGIN SSH SIGNATURE-----"
_MOST_PRINCIPALS = 100
_DESCRIPTOR = "/proc/self/fd/"


def sign(key: str, digest: str, with_key: Path) -> str:
    """The signature of a parcel by a private key, or by that of a public one which ssh-agent has.

    :raises ConfigurationError: it cannot be done with that key.
    :raises HostError: there is no ssh-keygen.
    """
    if not with_key.is_file():
        raise ConfigurationError(f"{with_key}, by which frozen guests are to be signed, is no file")
    done = _keygen("sign", "-f", str(with_key), stdin=_signed(key, digest))
    if done.returncode or not done.stdout.startswith(_ARMOUR):
        said = line(done.stderr.replace("Signing data on standard input", ""), 300)
        raise ConfigurationError(
            f"ssh-keygen cannot sign with {with_key}: {said or 'it says nothing'}; a key with a passphrase is given to "
            "ssh-agent by ssh-add, and named by its .pub file"
        )
    return done.stdout


def distrust(key: str, digest: str, signature: str, signers: Path) -> str | None:
    """Why a signature is not that of somebody in an allowed-signers file, as words; None if it is.

    :raises ConfigurationError: the file cannot be read.
    :raises HostError: there is no ssh-keygen.
    """
    try:
        with signers.open("rb"):
            pass
    except OSError as error:
        raise ConfigurationError(f"the file of allowed signers cannot be read: {explain(error)}") from None
    with _as_file(signature) as file:
        found = _keygen("find-principals", "-s", file, "-f", str(signers))
        if found.returncode:
            return f"it is signed by nobody in {signers}"
        said = "nothing is said"
        principals = [one for name in found.stdout.splitlines() for one in name.split(",") if one]
        for principal in principals[:_MOST_PRINCIPALS]:
            arguments = ("-s", file, "-f", str(signers), f"-I{principal}")
            done = _keygen("verify", *arguments, stdin=_signed(key, digest))
            if done.returncode == 0:
                return None
            said = line(done.stderr or done.stdout, 200) or said
    return f"its signature is not good for it: {said}"


@contextlib.contextmanager
def signers_of(key: Path) -> Iterator[Path]:
    """A file of allowed signers that allows one key, for as long as the context lasts.

    :raises ConfigurationError: it cannot be had.
    :raises HostError: there is no ssh-keygen.
    """
    public = key if key.suffix == ".pub" else key.with_name(f"{key.name}.pub")
    try:
        text = public.read_text()
    except (OSError, ValueError):
        done = _run("-y", "-f", str(key))
        if done.returncode:
            raise ConfigurationError(f"ssh-keygen cannot read the key {key}: {line(done.stderr, 300)}") from None
        text = done.stdout
    with _as_file(f"* {' '.join(text.split()[:2])}\n") as file:
        yield Path(file)


def _signed(key: str, digest: str) -> bytes:
    return f"pytest-readonly-vm parcel 1\nkey {key}\nmanifest {digest}\n".encode()


@contextlib.contextmanager
def _as_file(text: str) -> Iterator[str]:
    """A name by which a child reads a text, of no use to anybody else."""
    descriptor = os.memfd_create("signature", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, text.encode(errors="replace"))
        yield f"{_DESCRIPTOR}{descriptor}"
    finally:
        os.close(descriptor)


def _keygen(what: str, *arguments: str, stdin: bytes = b"") -> Completed:
    descriptors = tuple(int(one.removeprefix(_DESCRIPTOR)) for one in arguments if one.startswith(_DESCRIPTOR))
    namespace = () if what == "find-principals" else ("-n", NAMESPACE)
    return _run("-Y", what, *namespace, *arguments, stdin=stdin, pass_fds=descriptors)


def _run(*arguments: str, stdin: bytes = b"", pass_fds: tuple[int, ...] = ()) -> Completed:
    # Nobody is asked for a passphrase in the midst of a run: the program that would ask fails.
    env = {**os.environ, "SSH_ASKPASS": "/bin/false", "SSH_ASKPASS_REQUIRE": "force", "LC_ALL": "C"}
    argv = ("ssh-keygen", *arguments)
    try:
        done = run_tool(argv, timeout=_PATIENCE, env=env, stdin=stdin, pass_fds=pass_fds)
    except FileNotFoundError:
        raise HostError("signatures of frozen guests need ssh-keygen of OpenSSH (Debian: openssh-client)") from None
    except OSError as error:
        raise HostError(f"ssh-keygen cannot be started: {explain(error)}") from None
    if done.returncode is None:
        raise HostError(f"ssh-keygen has not ended within {_PATIENCE:g} s")
    return done
