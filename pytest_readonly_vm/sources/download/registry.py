"""Owns the conversation with an OCI registry: whom it believes, and its manifests, each compared with its digest.

The protocol is https://github.com/opencontainers/distribution-spec, tokens are those of
https://distribution.github.io/distribution/spec/auth/token/.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import new
from typing import Any
from urllib.parse import SplitResult, urlencode, urlsplit, urlunsplit

from pytest_readonly_vm.config.digest import Digest
from pytest_readonly_vm.config.image_url import shown_url
from pytest_readonly_vm.config.oci_reference import OciReference
from pytest_readonly_vm.errors import DownloadError
from pytest_readonly_vm.sources.download.registry_login import Login, login_for
from pytest_readonly_vm.sources.download.tries import Interrupted, Tries
from pytest_readonly_vm.sources.download.web import Answer, NoCredentials, Web
from pytest_readonly_vm.sources.download.web_login import basic

INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)

_LARGEST = 4 << 20  # bytes of a manifest, as the specification has it
_PARAMETER = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest, or an index of several, and its digest."""

    digest: Digest
    kind: str
    """Its media type."""
    content: Mapping[str, Any]


class Registry:
    """One repository of a registry, and who asks it; see `web.Credentials`."""

    def __init__(self, web: Web, reference: OciReference) -> None:
        self._web = web
        self._reference = reference
        self._scheme = self._found_scheme()
        self._base = f"{self._scheme}://{reference.registry}"
        self._login: Login | None = None
        self._is_login_known = False
        self._authorization: str | None = None

    @property
    def is_secure(self) -> bool:
        """Whether it is spoken to by https."""
        return self._scheme == "https"

    def _found_scheme(self) -> str:
        """As other clients have it, http is what remains where it is allowed and nobody answers by https."""
        if not (self._reference.insecure or self._reference.is_of_loopback):
            return "https"
        try:
            with self._web.ask(f"https://{self._reference.registry}/v2/", credentials=NoCredentials()):
                return "https"
        except Interrupted:
            return "http"

    def url(self, path: str) -> str:
        """Where something of the repository is."""
        return f"{self._base}/v2/{self._reference.repository}/{path}"

    def blob_url(self, digest: Digest) -> str:
        """Where a blob is."""
        return self.url(f"blobs/{digest}")

    def manifest(self, at: Digest | str) -> Manifest:
        """What a tag or a digest leads to.

        :raises DownloadError: there is none, or it is another than its digest says.
        :raises ConfigurationError: what the user has kept of passwords cannot be used.
        """
        url = self.url(f"manifests/{at}")
        body, kind, said = self._text(url)
        expected = at if isinstance(at, Digest) else said
        digest = Digest("sha256", new("sha256", body).hexdigest())
        if expected is not None:
            found = Digest(expected.algorithm, new(expected.algorithm, body).hexdigest())
            if found != expected:
                raise DownloadError(f"{shown_url(url)} is another manifest than its digest says: {found}, {expected}")
            digest = found
        content = _object(body)
        if not content:
            raise DownloadError(f"{shown_url(url)} is no manifest of an image")
        return Manifest(digest, str(content.get("mediaType") or kind.partition(";")[0].strip()), content)

    # Whom it believes.

    def headers(self, url: str) -> Mapping[str, str]:
        """Those for the registry itself; a blob may be with another host, to which they do not go."""
        parts = urlsplit(url)
        is_ours = f"{parts.scheme}://{parts.netloc}" == self._base
        return {"Authorization": self._authorization} if is_ours and self._authorization else {}

    def take_challenge(self, url: str, challenge: str) -> bool:
        """Get what the registry wants to see: a token of the one whom it names, or user and password."""
        if not url.startswith(f"{self._base}/"):
            return False
        if not self._is_login_known:
            self._login = login_for(self._reference.registry, self._reference.repository)
            self._is_login_known = True
        before = self._authorization
        if bearer := re.search(r"\bbearer\s+(.*)", challenge, re.IGNORECASE):  # there may be several ways
            self._authorization = f"Bearer {self._token(dict(_PARAMETER.findall(bearer[1])))}"
        elif re.match(r"basic\b", challenge, re.IGNORECASE) and self._login is not None:
            self._authorization = basic(self._login.user, self._login.password)
        return self._authorization != before

    def _token(self, challenge: Mapping[str, str]) -> str:
        realm = challenge.get("realm", "")
        parts = _parts_of_web_url(realm)
        if parts is None:
            raise DownloadError(f"{self._reference.name}: the registry sends whoever asks for a token to no URL")
        if parts.scheme not in ("https", self._scheme):
            raise DownloadError(
                f"{self._reference.name}: the registry sends whoever asks to {shown_url(realm)} for a "
                "token, which is not by https"
            )
        scope = challenge.get("scope") or f"repository:{self._reference.repository}:pull"
        asked = {"scope": scope} | ({"service": challenge["service"]} if "service" in challenge else {})
        login = self._login
        realm = urlunsplit(parts._replace(fragment=""))
        if login is not None and login.token is not None:
            form = asked | {
                "grant_type": "refresh_token",
                "client_id": "pytest-readonly-vm",
                "refresh_token": login.token,
            }
            answer = self._token_answer(realm, "POST", urlencode(form).encode(), None)
        else:
            sign = "&" if parts.query else "?"
            answer = self._token_answer(f"{realm}{sign}{urlencode(asked)}", "GET", None, login)
        token = answer.get("token") or answer.get("access_token")
        if not isinstance(token, str) or not re.fullmatch(r"[\x21-\x7e]+", token):
            raise DownloadError(f"{shown_url(realm)} answers without a token for {self._reference.name}")
        return token

    def _token_answer(self, url: str, method: str, form: bytes | None, login: Login | None) -> Mapping[str, Any]:
        headers = {"Content-Type": "application/x-www-form-urlencoded"} if form else {}
        if login is not None:
            headers["Authorization"] = basic(login.user, login.password)
        # Not as credentials: these are sent nowhere else, also where a redirect leads.
        with self._web.ask(url, credentials=_ForOne(url, headers), method=method, body=form) as answer:
            if answer.status != 200:
                raise DownloadError(self.refusal(answer))
            return _object(answer.text(_LARGEST))

    def refusal(self, answer: Answer) -> str:
        """Why an answer is not what was asked for, and what helps."""
        sentence = f"{self._reference}: the registry answers {answer.reason}"
        if answer.status in (401, 403):
            known = (
                "does not take the password that is kept for it" if self._login else "knows nobody without a password"
            )
            return f"{sentence}; it {known}: docker login {self._reference.registry}, or podman login"
        return sentence

    def _text(self, url: str) -> tuple[bytes, str, Digest | None]:
        tries = Tries(url)
        accepted = {"Accept": ", ".join((*MANIFESTS, *INDEXES))}
        while True:
            try:
                with self._web.ask(url, credentials=self, headers=accepted) as answer:
                    if answer.status != 200:
                        raise DownloadError(self.refusal(answer))
                    said = answer.headers.get("Docker-Content-Digest")
                    return answer.text(_LARGEST), answer.headers.get("Content-Type", ""), _known(said)
            except Interrupted as error:
                tries.wait_after(error)


class _ForOne:
    """Credentials for one URL, and for nothing that it redirects to."""

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        self._url = url
        self._headers = headers

    def headers(self, url: str) -> Mapping[str, str]:
        return self._headers if url == self._url else {}

    def take_challenge(self, url: str, challenge: str) -> bool:
        return False


def _parts_of_web_url(written: str) -> SplitResult | None:
    """Those of a URL that can be asked; None for what is none."""
    try:
        parts = urlsplit(written)
        has_host = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return None
    return parts if has_host and re.fullmatch(r"[\x21-\x7e]+", written) else None


def _object(text: bytes) -> Mapping[str, Any]:
    """The object that a text in JSON is; empty, if it is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _known(said: str | None) -> Digest | None:
    """What the registry says the digest is, where that is of a kind that can be compared."""
    try:
        return Digest.parse(said or "")
    except ValueError:
        return None
