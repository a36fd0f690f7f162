"""Owns the host's package archive: its release, the distribution's own sources, the way to reach them.

Everything is read from the host's apt configuration: no host name is written here, and the sources of other
vendors stay out. Only apt itself is asked, so any format of source list, mirrors and proxies are understood.
"""

from __future__ import annotations

import logging
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.guests import tools
from tests.guests.tools import BuildError

_KERNELS = {"debian": "linux-image-cloud-amd64", "ubuntu": "linux-image-virtual"}
_FIELDS = ("ORIGIN", "CODENAME", "SUITE", "ARCHITECTURE", "REPO_URI", "RELEASE", "COMPONENT")
# The settings that decide whether and how an archive can be reached.
_ACCESS = re.compile(r"Acquire::(https?|ftp|socks5h|retries|proxy|forceipv|check-|max-)", re.IGNORECASE)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Archive:
    """The distribution's archive as the host reaches it."""

    distribution: str
    """``debian`` or ``ubuntu``."""
    codename: str
    """The release, such as ``bookworm``."""
    sources: tuple[str, ...]
    """Lines of a source list."""
    configuration: tuple[str, ...]
    """Lines of an apt.conf: proxies, certificates, checks."""

    @property
    def kernel(self) -> str:
        """The package that depends on the newest kernel for virtual machines."""
        return _KERNELS[self.distribution]


def host_release() -> tuple[str, str]:
    """The host's distribution and codename; `BuildError` when it is neither Debian nor Ubuntu on amd64."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    distribution, codename = release.get("ID", ""), release.get("VERSION_CODENAME", "")
    if distribution not in _KERNELS or not codename or platform.machine() != "x86_64":
        raise BuildError(
            f"The Linux guests are built from the packages of a Debian or Ubuntu host on x86_64; "
            f"this is {release.get('PRETTY_NAME', platform.system())} on {platform.machine()}"
        )
    return distribution, codename


def host_archive() -> Archive:
    """The archive in the host's apt configuration; `BuildError` when apt has no package lists of it."""
    distribution, codename = host_release()
    tools.require("apt-get", "apt-config")
    fields = "|".join(f"$({field})" for field in _FIELDS)
    listing = tools.run(["apt-get", "indextargets", "--format", fields, "Created-By: Packages"])
    lines: set[str] = set()
    for row in listing.splitlines():
        origin, release, suite, architecture, uri, name, component = row.split("|", maxsplit=len(_FIELDS) - 1)
        own = origin.lower() == distribution and architecture == "amd64"
        if own and _belongs(codename, release, suite, name):
            lines.add(f"deb {_options(distribution)}{uri} {name} {component}")
    if not lines:
        raise BuildError(
            f"apt has no package lists of {distribution} {codename} for amd64: run apt-get update, "
            f"then look at what apt-get indextargets prints"
        )
    return Archive(distribution, codename, tuple(sorted(lines)), _access_settings())


def _belongs(codename: str, *names: str) -> bool:
    """Whether a suite with these names is the release or its updates, but neither backports nor proposed."""
    # In Debian the codename of the updates is bookworm-updates; in Ubuntu it is that of the release, noble.
    if any(name.endswith(("-backports", "-proposed", "-proposed-updates")) for name in names):
        return False
    return not {codename, f"{codename}-updates", f"{codename}-security"}.isdisjoint(names)


def _options(distribution: str) -> str:
    keyring = Path(f"/usr/share/keyrings/{distribution}-archive-keyring.gpg")
    return f"[signed-by={keyring}] " if keyring.exists() else ""


def _access_settings() -> tuple[str, ...]:
    settings = tools.run(["apt-config", "dump", "--no-empty", "--format", '%F "%v";%n']).splitlines()
    return tuple(line for line in settings if _ACCESS.match(line))


def download(archive: Archive, packages: Sequence[str], *, along: tuple[str, ...], into: Path) -> list[Path]:
    """Fetch the newest `packages` into the directory `into`, and those dependencies that start as in `along`.

    Needs no root. `into` gets package lists of its own, so that old lists of the host do not matter.
    """
    tools.require("apt-get", "apt-cache")
    for needed in ("state/lists/partial", "cache/archives/partial"):
        (into / needed).mkdir(parents=True)
    (into / "status").touch()
    (into / "sources.list").write_text("\n".join(archive.sources) + "\n")
    settings = {
        "APT::Architecture": "amd64",
        "APT::Sandbox::User": "",  # the user that apt changes to cannot be expected to reach our directory
        "Acquire::Languages": "none",
        "Dir::Cache": into / "cache",
        "Dir::Etc::Main": "/dev/null",
        "Dir::Etc::Parts": "/dev/null",
        "Dir::Etc::SourceList": into / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State": into / "state",
        "Dir::State::Status": into / "status",
    }
    configuration = into / "apt.conf"
    own = [f'{name} "{value}";' for name, value in settings.items()]
    configuration.write_text("\n".join([*archive.configuration, *own, ""]))
    environment = {"APT_CONFIG": str(configuration)}

    log.info("fetching the package lists")
    tools.run(["apt-get", "update"], env=environment)
    listing = tools.run(["apt-cache", "depends", "--recurse", "--important", *packages], env=environment)
    names = [name for name in listing.splitlines() if name in packages or name.startswith(along)]
    log.info("fetching %s", " ".join(names))
    tools.run(["apt-get", "download", *names], env=environment, cwd=into)
    return sorted(into.glob("*.deb"))
