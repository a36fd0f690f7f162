"""Files are asked of whom the user has named, by the ways and with the passwords of the environment."""

import sys
from pathlib import Path

import pytest

from pytest_readonly_vm import ConfigurationError, HostError
from pytest_readonly_vm.config.image_url import ImageUrl
from tests.unit.download.downloads import CONTENT, SHA256, Certified, Downloads, pinned
from tests.web_proxy import proxy
from tests.web_server import Site, site


def test_redirects_are_followed_and_carry_no_password_to_another(server: Site, downloads: Downloads) -> None:
    with site() as other:
        target = other.put("y.img", CONTENT)
        server.redirects["/x.img"] = target.replace("http://", "http://thief:pw@")
        assert downloads.get(pinned(f"{server.url}/x.img".replace("http://", "http://me:s3cret@"))) == CONTENT
        assert server.asked[0].headers["authorization"] == "Basic bWU6czNjcmV0"
        assert "authorization" not in other.asked[0].headers


def test_a_password_of_the_url_or_of_netrc_is_used_and_not_shown(
    server: Site, downloads: Downloads, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    server.user = "Basic bWU6czNjcmV0"
    url = server.put("x.img", CONTENT)
    refused = downloads.refused(pinned(url))
    assert refused == f"{url} answers 401 Unauthorized; if it needs a user and password, put them into ~/.netrc"
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password s3cret")
    assert downloads.get(pinned(url)) == CONTENT
    (tmp_path / "netrc").write_text("this is s3cret nonsense")
    assert downloads.get(pinned(url.replace("http://", "http://me:s3cret@"))) == CONTENT
    server.files["/x.img"].content = b"another"
    with_password = url.replace("http://", "http://me:s3cret@") + "?signature=s3cret"
    assert "s3cret" not in downloads.refused(pinned(with_password))
    assert "s3cret" not in f"{downloads} {ImageUrl.parse(pinned(with_password))!r} {caplog.text}"


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "http://[", "http://a:99999/", ""])
def test_redirects_lead_nowhere_but_into_the_web(server: Site, downloads: Downloads, target: str) -> None:
    server.redirects["/x.img"] = target
    assert downloads.refused(pinned(f"{server.url}/x.img")) == (
        f"{server.url}/x.img redirects to what is no URL of the web (302 Found)"
    )


def test_a_circle_of_redirects_ends(server: Site, downloads: Downloads) -> None:
    server.redirects["/x.img"] = "/x.img"
    assert "redirects for ever: 10 times so far" in downloads.refused(pinned(f"{server.url}/x.img"))


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_an_authority_of_ones_own_is_named_by_the_variables_that_others_heed(
    certified: Certified, downloads: Downloads, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    url = certified.site.put("x.img", CONTENT)
    pin = f"{url}#sha256={SHA256}"
    assert downloads.refused(pin) == (
        f"{url}: the server's certificate is not trusted: unable to get local issuer certificate; a certificate "
        "authority of your own is named by SSL_CERT_FILE=FILE in the environment"
    )
    monkeypatch.setenv(variable, str(certified.authority))
    assert downloads.get(pin) == CONTENT
    monkeypatch.setenv(variable, "/nowhere.pem")
    with pytest.raises(ConfigurationError, match=f"/nowhere.pem, which {variable} of the environment names, cannot"):
        downloads.get(pin)


def test_https_does_not_become_http_unless_asked_for(
    certified: Certified, server: Site, downloads: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certified.authority))
    certified.site.redirects["/moved.img"] = server.put("x.img", CONTENT)
    url = f"{certified.site.url}/moved.img#sha256={SHA256}"
    assert downloads.refused(url) == (
        f"{certified.site.url}/moved.img redirects to {server.url}/x.img, and anybody on the way can read and change "
        "what comes by http; take another URL, or put insecure after its #"
    )
    assert downloads.get(f"{url}&insecure") == CONTENT


def test_a_proxy_of_the_environment_is_used_for_both_and_not_where_it_is_not_wanted(
    certified: Certified, server: Site, downloads: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certified.authority))
    plain, secure = pinned(server.put("x.img", CONTENT)), f"{certified.site.put('x.img', CONTENT)}#sha256={SHA256}"
    with proxy("Basic bWU6czNjcmV0") as other:
        monkeypatch.setenv("http_proxy", f"http://me:s3cret@127.0.0.1:{other.port}")
        monkeypatch.setenv("https_proxy", f"http://me:s3cret@127.0.0.1:{other.port}")
        assert (downloads.get(plain), downloads.get(secure)) == (CONTENT, CONTENT)
        assert [line.split()[0] for line in other.asked] == ["GET", "CONNECT"]
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{other.port}")
        refused = downloads.refused(secure)
        assert "cannot be had through the proxy of the environment: Tunnel connection failed: 407" in refused
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert downloads.get(secure) == CONTENT
    monkeypatch.delenv("no_proxy")
    for written, shown in (
        ("socks5://me:s3cret@127.0.0.1:1", r"socks5://127\.0\.0\.1:1"),
        ("http://me:s3cret@[", "http://…"),
    ):
        monkeypatch.setenv("https_proxy", written)
        with pytest.raises(ConfigurationError, match=rf"^{shown}, which HTTP_PROXY, .* is no proxy that can"):
            downloads.get(secure)


def test_without_urllib3_the_sentence_has_the_command(downloads: Downloads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "urllib3", None)
    with pytest.raises(HostError, match=r"need urllib3: pip install 'pytest-readonly-vm\[images\]'"):
        downloads.get(f"https://example.org/x.img#sha256={SHA256}")
