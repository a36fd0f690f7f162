"""Owns a real OCI registry on loopback, Debian's docker-registry, and images that are pushed to it."""

import contextlib
import gzip
import hashlib
import http.client
import io
import json
import re
import subprocess
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.qemu.waiting import GENEROUS

OCI = "application/vnd.oci.image"
LAYER = f"{OCI}.layer.v1.tar"
TITLE = "org.opencontainers.image.title"
LOGIN = ("me", "s3cret")
_HTPASSWD = "me:$2y$04$abcdefghijklmnopqrstuuLZYjhNQAOdpbzt4WxWlUHjv1wsyH5DG\n"


@dataclass(frozen=True)
class Registry:
    """A registry that runs, and the folder with its files."""

    host: str
    folder: Path
    authorization: str | None = None

    def blob(self, content: bytes, kind: str, **annotations: str) -> dict[str, Any]:
        """Push a blob; its descriptor."""
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        place = self.ask("POST", "/v2/images/blobs/uploads/").headers["Location"]
        place = re.sub(r"^https?://[^/]*", "", place)
        self.ask("PUT", f"{place}&digest={digest}", content, {"Content-Type": "application/octet-stream"})
        found = {"mediaType": kind, "digest": digest, "size": len(content)}
        return found | ({"annotations": annotations} if annotations else {})

    def artefact(
        self, tag: str, *layers: Mapping[str, Any], platform: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Push a manifest; its descriptor, for an index."""
        config = self.blob(b"{}", f"{OCI}.config.v1+json")
        manifest = {"schemaVersion": 2, "mediaType": f"{OCI}.manifest.v1+json", "config": config, "layers": layers}
        found = self.manifest(tag, manifest, f"{OCI}.manifest.v1+json")
        return found | ({"platform": platform} if platform else {})

    def index(self, tag: str, *manifests: Mapping[str, Any]) -> dict[str, Any]:
        """Push an index."""
        index = {"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": manifests}
        return self.manifest(tag, index, f"{OCI}.index.v1+json")

    def manifest(self, tag: str, content: Mapping[str, Any], kind: str) -> dict[str, Any]:
        body = json.dumps(content).encode()
        self.ask("PUT", f"/v2/images/manifests/{tag}", body, {"Content-Type": kind})
        return {"mediaType": kind, "digest": f"sha256:{hashlib.sha256(body).hexdigest()}", "size": len(body)}

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection(self.host)
        with contextlib.closing(connection):
            own = {"Authorization": self.authorization} if self.authorization else {}
            connection.request(method, path, body, {**(headers or {}), **own})
            answer = connection.getresponse()
            text = answer.read()
        assert answer.status < 300, text
        return answer

    def data_of(self, digest: str) -> Path:
        """The file that it keeps a blob in."""
        name = digest.partition(":")[2]
        return self.folder / "docker/registry/v2/blobs/sha256" / name[:2] / name / "data"


@contextlib.contextmanager
def registry(folder: Path, *sections: str, authorization: str | None = None) -> Iterator[Registry]:
    """One that runs, with sections of its configuration to add: ``auth``, for example."""
    storage = folder / "storage"
    storage.mkdir(parents=True)
    configuration = folder / "config.yml"
    configuration.write_text(
        "\n".join(
            (
                "version: 0.1",
                "log: {level: info, accesslog: {disabled: true}}",
                f"storage: {{filesystem: {{rootdirectory: '{storage}'}}}}",
                *(
                    sections
                    if any(one.startswith("http:") for one in sections)
                    else ("http: {addr: '127.0.0.1:0'}", *sections)
                ),
            )
        )
    )
    log = folder / "log"
    with (
        log.open("wb") as file,
        subprocess.Popen(["docker-registry", "serve", str(configuration)], stdout=file, stderr=file) as process,
    ):
        try:
            yield Registry(_address(process, log), storage, authorization)
        finally:
            process.kill()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + GENEROUS
    while not (found := re.search(r"listening on (127\.0\.0\.1:\d+)", log.read_text())):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return found[1]


def with_password(folder: Path) -> str:
    """The section of a registry that knows `LOGIN` alone."""
    file = folder / "htpasswd"
    file.write_text(_HTPASSWD)
    return f"auth: {{htpasswd: {{realm: here, path: '{file}'}}}}"


def layer(files: Mapping[str, bytes], links: Sequence[str] = ()) -> bytes:
    """The tar of a layer."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for name in links:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(member)
    return buffer.getvalue()


def packed(tar: bytes) -> bytes:
    return gzip.compress(tar, compresslevel=1, mtime=0)
