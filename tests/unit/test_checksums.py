"""Digests are found in every form in which distributions publish them, and only those of the file that is meant."""

import pytest

from pytest_readonly_vm.sources.download import checksums

A, B, C = "a" * 64, "b" * 64, "c" * 128
SIGNED = (
    "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n{}\n-----BEGIN PGP SIGNATURE-----\n\niQIzBAEBCgAdFi\n=abcd\n"
)


@pytest.mark.parametrize(
    "text",
    [
        f"{A}  x.img",
        f"{A} *x.img\n{B} *y.img\n",
        f"{A.upper()}  ./x.img\r\n",
        f"{A}\tx.img",
        f"\ufeff{B}  other\n{A}  x.img\n",
        f"# x.img: 17 bytes\nSHA256 (x.img) = {A}\n",
        f"SHA2-256(x.img)= {A}",
        SIGNED.format(f"{A}  x.img"),
        SIGNED.format(f"SHA256 (x.img) = {A}"),
        f"{B}  sub/x.img\n{A}  x.img\n{B}  x.img.xz\n",
        f"{A}  x.img\n{A}  ./x.img\n",
        f"{'d' * 32}  x.img\n{'e' * 40}  x.img\n{A}  x.img\n",
    ],
)
def test_a_digest_is_found(text: str) -> None:
    assert str(checksums.find(text, "x.img", is_its_own=False)) == f"sha256:{A}"


def test_a_digest_of_one_kind_is_found() -> None:
    text = f"{C}  x.img\n{A}  x.img\n"
    assert str(checksums.find(text, "x.img", is_its_own=False)) == f"sha512:{C}"
    assert str(checksums.find(text, "x.img", is_its_own=False, algorithms=("sha256",))) == f"sha256:{A}"
    assert checksums.find(f"{C}  x.img\n", "x.img", is_its_own=False, algorithms=("sha256",)) is None


@pytest.mark.parametrize("text", [A, f"{A}\n", f"{A}  /build/other-name.img\n", f"SHA256 (y) = {A}", f"{A}  x.img"])
def test_a_file_for_one_image_needs_no_name(text: str) -> None:
    assert str(checksums.find(text, "x.img", is_its_own=True)) == f"sha256:{A}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<html>not found</html>",
        A,
        f"{A}  y.img",
        f"{A}  sub/x.img",
        f"{A[:-1]}  x.img",
        f"SHA512 (x.img) = {A}",
        f"{A}  x.img.sig",
    ],
)
def test_what_has_none_for_it_has_none(text: str) -> None:
    assert checksums.find(text, "x.img", is_its_own=False) is None


def test_the_strongest_counts() -> None:
    text = f"SHA256 (x.img) = {A}\nSHA512 (x.img) = {C}\n"
    assert str(checksums.find(text, "x.img", is_its_own=False)) == f"sha512:{C}"
    names = checksums.names_beside("x.img")
    assert names.index("x.img.sha512") < names.index("CHECKSUM") < names.index("SHA256SUMS")


def test_a_name_that_has_to_be_escaped_is_found() -> None:
    assert str(checksums.find(f"\\{A}  a\\\\b\n", "a\\b", is_its_own=False)) == f"sha256:{A}"


def test_two_digests_for_a_name_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"has two digests of x\.img: sha256:aa.* and sha256:bb"):
        checksums.find(f"{A}  x.img\n{B}  x.img\n", "x.img", is_its_own=False)


def test_the_names_are_known() -> None:
    assert checksums.names(f"{A}  ./debian-13.qcow2\n{B}  README\n{A}\n") == ["debian-13.qcow2", "README"]
