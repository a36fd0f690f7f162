"""The digest of an image is found beside it, or it is said that there is none."""

import pytest

from pytest_readonly_vm import DownloadError
from pytest_readonly_vm.config.digest import Digest
from pytest_readonly_vm.config.image_url import ImageUrl
from pytest_readonly_vm.sources.download.from_url import locate
from tests.unit.download.downloads import CONTENT, NAME, SHA256, SHA512, Certified, Downloads, pinned
from tests.web_server import Site


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("SHA256SUMS", f"{SHA256}  {NAME}\n"),
        ("SHA512SUMS", f"{'0' * 128} *other\n{SHA512} *./{NAME}\n"),
        ("CHECKSUM", f"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n"
         f"# {NAME}: 3 bytes\nSHA256 ({NAME}) = {SHA256}\n"),
        (f"{NAME}.sha256", SHA256.upper()),
        (f"{NAME}.sha512", f"{SHA512}  /build/out/image-1.2.qcow2\r\n"),
    ],
)  # fmt: skip
def test_a_digest_beside_the_image_is_found(server: Site, downloads: Downloads, name: str, text: str) -> None:
    url = server.put("images/a%20disk.qcow2", CONTENT)
    server.put(f"images/{name.replace(' ', '%20')}", text.encode())
    assert downloads.get(f"{url}?token=s3cret#insecure") == CONTENT
    assert all("s3cret" not in told for told in downloads.warned)
    assert downloads.warned == [f"{url}?… comes by http, so anybody on the way can read it, and change it"]


def test_the_strongest_digest_counts(server: Site, downloads: Downloads) -> None:
    url = server.put("x.img", CONTENT)
    server.put("SHA256SUMS", f"{SHA256}  x.img\n".encode())
    server.put("x.img.sha512", f"{'0' * 128}  x.img\n".encode())
    sentence = downloads.refused(f"{url}#insecure")
    assert f"its digest is sha512:{SHA512}, and {server.url}/x.img.sha512 says sha512:000" in sentence


def test_a_name_that_is_missing_is_said_with_the_nearest(
    certified: Certified, downloads: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certified.authority))
    here = certified.site
    url = here.put("missing/debian-12.qcow2", CONTENT)
    here.put("missing/SHA256SUMS", f"{SHA256}  debian-13.qcow2\n".encode())
    hint = "write the digest behind the URL, as in #sha256=HEX, or #insecure to do without one"
    assert downloads.refused(url) == (
        f"{here.url}/missing/SHA256SUMS has no digest of debian-12.qcow2 (did you mean 'debian-13.qcow2'?); {hint}"
    )
    bare = here.put("bare/x.img", CONTENT)
    assert downloads.refused(bare) == (
        f"there is no file of checksums beside {bare}, such as SHA512SUMS or x.img.sha256; {hint}"
    )
    assert downloads.get(f"{bare}#insecure") == CONTENT
    assert downloads.warned[-1].startswith(f"{bare} is used without a digest, so nobody knows which file it is: there")


def test_a_url_without_a_name_has_no_digest_beside_it(server: Site, downloads: Downloads) -> None:
    server.put("", CONTENT)
    assert downloads.get(f"{server.url}/#insecure") == CONTENT
    assert f"{server.url}/ ends without the name of a file, of which there could be a digest" in downloads.warned[-1]
    assert len(server.asked) == 1


def test_where_an_image_is_can_be_asked_without_downloading_it(server: Site) -> None:
    url = server.put("x.img", CONTENT)
    server.put("SHA512SUMS", f"{SHA512}  x.img\n".encode())
    warned: list[str] = []
    found = locate(ImageUrl.parse(f"{url}#insecure"), warn=warned.append)
    assert (found.digest, found.size) == (Digest("sha512", SHA512), len(CONTENT))
    assert found.version.etag == server.files["/x.img"].etag
    assert server.requests("x.img") == []
    with pytest.raises(DownloadError, match="answers 404 Not Found"):
        locate(ImageUrl.parse(pinned(f"{server.url}/gone.img")), warn=warned.append)
