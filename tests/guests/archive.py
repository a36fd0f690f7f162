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
from tests.guests.architectures import X86_64, Architecture
from tests.guests.tools import BuildError

_DISTRIBUTIONS = ("debian", "ubuntu")
_BEFORE = {"trixie": ("bookworm",)}
"""Releases before those that an architecture begins with."""
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
    architecture: Architecture
    sources: tuple[str, ...]
    """Lines of a source list."""
    configuration: tuple[str, ...]
    """Lines of an apt.conf: proxies, certificates, checks."""

    @property
    def kernel(self) -> str:
        """The package that depends on the newest kernel for virtual machines."""
        kernels = {"debian": self.architecture.debian_kernel, "ubuntu": self.architecture.ubuntu_kernel}
        return kernels[self.distribution]


def host_release() -> tuple[str, str]:
    """The host's distribution and codename; `BuildError` when it is neither Debian nor Ubuntu on amd64."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    distribution, codename = release.get("ID", ""), release.get("VERSION_CODENAME", "")
    if distribution not in _DISTRIBUTIONS or not codename or platform.machine() != "x86_64":
        raise BuildError(
            f"The Linux guests are built from the packages of a Debian or Ubuntu host on x86_64; "
            f"this is {release.get('PRETTY_NAME', platform.system())} on {platform.machine()}"
        )
    return distribution, codename


def host_archive(architecture: Architecture = X86_64) -> Archive:
    """The archive in the host's apt configuration; `BuildError` when apt has no package lists of it.

    For another architecture than the host's it is the same archive, in which Ubuntu has none, without the updates,
    which mirrors have later and for fewer; for one that the host's release has not, the first release that does.
    """
    distribution, codename = host_release()
    if distribution != "debian" and architecture is not X86_64:
        raise BuildError(f"the archive of {distribution} for the host has no packages for {architecture.packages}")
    tools.require("apt-get", "apt-config")
    fields = "|".join(f"$({field})" for field in _FIELDS)
    listing = tools.run(["apt-get", "indextargets", "--format", fields, "Created-By: Packages"])
    wanted = architecture.suite if codename in _BEFORE.get(architecture.suite, ()) else codename
    lines: set[str] = set()
    for row in listing.splitlines():
        origin, release, suite, packages, uri, name, component = row.split("|", maxsplit=len(_FIELDS) - 1)
        own = origin.lower() == distribution and packages == X86_64.packages
        belongs = _belongs(codename, release, suite, name) and (architecture is X86_64 or release == codename)
        if own and belongs:
            lines.add(f"deb {_options(distribution)}{uri} {name.replace(codename, wanted)} {component}")
    if not lines:
        raise BuildError(
            f"apt has no package lists of {distribution} {codename} for {X86_64.packages}: run apt-get update, "
            f"then look at what apt-get indextargets prints"
        )
    return Archive(distribution, wanted, architecture, tuple(sorted(lines)), _access_settings())


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
        "APT::Architecture": archive.architecture.packages,
        "APT::Architectures": archive.architecture.packages,
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
