"""Owns a server of tokens on loopback, by which a real registry knows who asks."""

import base64
import contextlib
import datetime
import http.server
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID

from tests.web_server import serving

TOKEN_LOGIN = ("me", "s3cret")
_ISSUER, _SERVICE = "tests", "shelf"


@dataclass
class Tokens:
    """What signs them, and which access was asked for."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate
    section: str = ""
    """For the registry's configuration."""
    asked: list[str] = field(default_factory=list)

    def token(self, actions: str) -> str:
        """One that lets its bearer do this with the images of the tests."""
        now = int(time.time())
        chain = base64.b64encode(self.certificate.public_bytes(serialization.Encoding.DER)).decode()
        access = [{"type": "repository", "name": "images", "actions": actions.split(",")}]
        claims = {
            "iss": _ISSUER,
            "sub": "me",
            "aud": _SERVICE,
            "exp": now + 300,
            "nbf": now - 60,
            "iat": now,
            "jti": "1",
        }
        signed = ".".join(
            _packed(json.dumps(part).encode())
            for part in ({"typ": "JWT", "alg": "ES256", "x5c": [chain]}, {**claims, "access": access})
        )
        r, s = decode_dss_signature(self.key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{_packed(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


@contextlib.contextmanager
def token_server(folder: Path) -> Iterator[Tokens]:
    """A server that gives tokens to who says `TOKEN_LOGIN`, or has the refresh token ``s3cret``."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(1))
        .not_valid_after(now + datetime.timedelta(1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "bundle.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    tokens = Tokens(key, certificate)
    expected = base64.b64encode(":".join(TOKEN_LOGIN).encode()).decode()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.give(parse_qs(urlsplit(self.path).query), self.headers.get("Authorization") == f"Basic {expected}")

        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.give(form, form.get("refresh_token") == ["s3cret"])

        def give(self, asked: dict[str, list[str]], is_known: bool) -> None:
            if asked["service"] != [_SERVICE] or not is_known:
                self.send_error(401)
                return
            actions = asked["scope"][0].rpartition(":")[2]
            tokens.asked.append(actions)
            body = json.dumps({"access_token": tokens.token(actions)}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with serving(Handler) as port:
        realm = f"http://127.0.0.1:{port}/token"
        tokens.section = (
            f"auth: {{token: {{realm: '{realm}', service: {_SERVICE}, issuer: {_ISSUER}, "
            f"rootcertbundle: '{folder}/bundle.pem'}}}}"
        )
        yield tokens


def _packed(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
