"""URLs, references to registries and digests are read as they are written, and refused in a sentence."""

import re

import pytest

from pytest_readonly_vm.config.digest import Digest
from pytest_readonly_vm.config.image_reference import image
from pytest_readonly_vm.config.image_url import ImageUrl, shown_url
from pytest_readonly_vm.config.oci_reference import OciReference

A256, A512 = "a" * 64, "A" * 128


@pytest.mark.parametrize("written", [f"sha256:{A256}", f"sha256={A256}", f"SHA256:{A256.upper()}"])
def test_a_digest_is_read(written: str) -> None:
    assert str(Digest.parse(written)) == f"sha256:{A256}"


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ("sha256:abc", "'sha256:abc' has 3 hexadecimal digits; those of sha256 have 64"),
        (f"sha512={A256}", "has 64 hexadecimal digits; those of sha512 have 128"),
        (f"md5:{'a' * 32}", "is no digest; write it like sha256:00000000… or sha512:00000000…"),
        ("sha256", "is no digest; write it like"),
        (f"sha256:{'g' * 64}", "is no digest: it has other characters than hexadecimal digits"),
        (f"sha256:{'٣' * 64}", "is no digest: it has other characters than hexadecimal digits"),
    ],
)
def test_what_is_no_digest_is_said(written: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Digest.parse(written)


@pytest.mark.parametrize(
    ("written", "digest", "insecure"),
    [
        ("https://example.org/x.img", None, False),
        (f"https://example.org/x.img#sha256={A256}", f"sha256:{A256}", False),
        (f"https://example.org/x.img#sha512={A512}&insecure", f"sha512:{A512.lower()}", True),
        (f"HTTPS://example.org:8443/x.img?v=1#insecure&sha256:{A256}", f"sha256:{A256}", True),
        ("http://example.org/x.img#insecure", None, True),
    ],
)
def test_a_url_is_read(written: str, digest: str | None, insecure: bool) -> None:
    found = ImageUrl.parse(written)
    assert found.url == written.partition("#")[0].replace("HTTPS", "https")
    assert (found.digest and str(found.digest), found.insecure, found.name) == (digest, insecure, "x.img")


def test_what_may_be_secret_is_not_shown() -> None:
    found = ImageUrl.parse("https://me:s3cret@example.org/x%20y.img?signature=s3cret")
    assert str(found) == "https://example.org/x%20y.img?…"
    assert "s3cret" not in repr(found)
    assert found.name == "x y.img"
    assert found.beside("SHA256SUMS") == "https://example.org/SHA256SUMS"
    with pytest.raises(ValueError, match=r"^http://example\.org/x\.img: ") as error:
        ImageUrl.parse("http://me:s3cret@example.org/x.img")
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:s3cret@[", "https://…"),
        ("//me:s3cret@[::1", "…"),
        ("https://me:s3cret@\N{CARE OF}/", "https://…"),
        ("https://me:s3cret@x:y/", "https://x:y/"),
        ("", ""),
    ],
)
def test_what_is_no_url_is_shown_all_the_same(url: str, shown: str) -> None:
    assert shown_url(url) == shown


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ("http://example.org/x", "by http; write https://, or put #insecure at the end"),
        (f"http://example.org/x#sha256={A256}", "by http; write https://, or put &insecure at the end"),
        ("file:///srv/a%20b.img", "file:///srv/a%20b.img: a file of this computer is given by its path: /srv/a b.img"),
        ("ftp://example.org/x", "ftp://example.org/x: images come by https://, not by ftp://"),
        ("https:///x", "the URL names no host"),
        ("https://me:s3cret/@example.org/x", "the URL cannot be read: its host or its port is none"),
        ("https://[/x", "the URL cannot be read: its host or its port is none"),
        ("https://example.org/a b", "a URL has no spaces and no control characters; write %20 for a space"),
        ("https://example.org/x#sha256=abc", "'sha256=abc' has 3 hexadecimal digits; those of sha256 have 64"),
        ("https://example.org/x#nonsense", "after # a URL has sha256=HEX, sha512=HEX or insecure, not 'nonsense'"),
        (f"https://example.org/x#sha256={A256}&sha512={A512}", "two digests are after #: sha256:a"),
    ],
)
def test_what_is_no_url_of_an_image_is_said(written: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        ImageUrl.parse(written)


@pytest.mark.parametrize(
    "written",
    [
        "https://s3cret#rest@example.org/x",
        "https://me:s3#cret=s3cret@example.org/x",
        "https:///me:s3cret@example.org",
        "http://me/or:s3cret@example.org/x",
        "oci://me:s3cret/s3cret@example.org/x",
        "oci://me:x/x@s3cret@example.org/x",
        "OCI://me:s3cret@example.org/x",
    ],
)
def test_a_password_that_is_written_wrongly_is_not_shown(written: str) -> None:
    with pytest.raises(ValueError, match=r"URL|http://me/…@example\.org/x: |registry's user and password") as error:
        image(written)
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize(
    ("written", "secret"),
    [
        ("https://example.org/x", ""),
        ("https://me@example.org/x", "user and password"),
        ("https://me:pw@example.org/x?sig=1", "user and password, and what is behind the ?"),
        ("https://example.org/x?sig=1#insecure", "what is behind the ?"),
    ],
)
def test_it_is_known_what_of_a_url_may_be_secret(written: str, secret: str) -> None:
    assert ImageUrl.parse(written).secret == secret


def test_the_scheme_may_be_in_upper_case() -> None:
    assert image("OCI://example.org/a:1") == image("oci://example.org/a:1")


@pytest.mark.parametrize(
    ("written", "registry", "repository", "tag", "digest"),
    [
        ("oci://example.org/a/b", "example.org", "a/b", "latest", None),
        ("oci://example.org:5000/a:1.2", "example.org:5000", "a", "1.2", None),
        (f"oci://example.org/a@sha256:{A256}", "example.org", "a", None, f"sha256:{A256}"),
        (f"oci://example.org/a__b:t@sha256:{A256}", "example.org", "a__b", "t", f"sha256:{A256}"),
        ("oci://[::1]:5000/a:t", "[::1]:5000", "a", "t", None),
    ],
)
def test_a_reference_to_a_registry_is_read(
    written: str, registry: str, repository: str, tag: str | None, digest: str | None
) -> None:
    found = OciReference.parse(written)
    assert (found.registry, found.repository, found.tag) == (registry, repository, tag)
    assert (found.digest and str(found.digest), found.insecure) == (digest, False)
    assert str(found) == (f"{written}:latest" if tag == "latest" else written)


@pytest.mark.parametrize(
    ("registry", "is_of_loopback"),
    [
        ("localhost", True),
        ("localhost:5000", True),
        ("127.0.0.1:5000", True),
        ("127.1.2.3", True),
        ("[::1]:5000", True),
        ("127.example.org", False),
        ("example.org", False),
        ("localhost.example.org:5000", False),
    ],
)
def test_the_registry_of_this_computer_is_known(registry: str, is_of_loopback: bool) -> None:
    assert OciReference.parse(f"oci://{registry}/a").is_of_loopback is is_of_loopback


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ("oci://example.org", "'' is no repository of a registry"),
        ("oci:///a", "'' is no registry; write oci://registry.example.org/repository:tag"),
        ("oci://example.org/Upper", "'Upper' is no repository of a registry: names in lower case"),
        ("oci://example.org/a:", "'' is no tag of an image"),
        ("oci://example.org/a:t/../b", "'t/../b' is no tag of an image"),
        ("oci://example.org/../a", "'../a' is no repository of a registry"),
        ("oci://example.org/a@sha256:12", "'sha256:12' has 2 hexadecimal digits; those of sha256 have 64"),
        ("oci://example.org/a#sha256=12", "after # a registry's image has insecure or nothing; a digest comes after @"),
        ("oci://me:s3cret@example.org/a", "a registry's user and password are not written here; `docker login`"),
    ],
)
def test_what_is_no_reference_is_said(written: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)) as error:
        OciReference.parse(written)
    assert "s3cret" not in str(error.value)
