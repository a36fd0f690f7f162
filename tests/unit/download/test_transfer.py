"""A file from a URL is whole and what its digest says, however often its way is cut or what is sent changes."""

import hashlib

import pytest

from pytest_readonly_vm.sources.download import transfer, tries
from tests.unit.download.downloads import CONTENT, PART, SHA256, SHA512, Downloads, pinned
from tests.web_server import Fault, Site


@pytest.mark.parametrize("digest", [f"sha256={SHA256}", f"sha512={SHA512}", f"sha256={SHA256.upper()}"])
def test_a_file_with_its_digest_comes(server: Site, downloads: Downloads, digest: str) -> None:
    assert downloads.get(pinned(server.put("x.img", CONTENT), digest)) == CONTENT
    assert downloads.left == []
    assert len(server.asked) == 1
    assert server.asked[0].headers["accept-encoding"] == "identity"
    assert downloads.progress[0] == ("downloading x.img", 0, len(CONTENT))
    assert downloads.progress[-1] == ("downloading x.img", len(CONTENT), len(CONTENT))


@pytest.mark.parametrize(
    "fault",
    [
        Fault(cut=PART),
        Fault(status=503),
        Fault(status=429, headers={"Retry-After": "0"}),
        Fault(status=500),
        Fault(cut=0),
        Fault(cut=PART, chunked=True),
    ],
    ids=["cut", "503", "429", "500", "cut at once", "cut in chunks"],
)
def test_what_breaks_is_gone_on_with(server: Site, downloads: Downloads, fault: Fault) -> None:
    assert downloads.get(pinned(server.put("x.img", CONTENT, fault))) == CONTENT
    first, second = server.asked
    assert "range" not in first.headers
    if fault.cut:
        start = int(second.headers["range"].removeprefix("bytes=").removesuffix("-"))
        assert 0 < start <= PART
        assert second.headers["if-range"] == server.files["/x.img"].etag


def test_one_that_is_cut_more_often_than_there_are_tries_comes_as_long_as_there_is_progress(
    server: Site, downloads: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "_ENOUGH_PROGRESS", 1 << 17)
    cuts = [Fault(cut=1 << 18) for _ in range(tries.MOST_TRIES + 2)]
    assert downloads.get(pinned(server.put("x.img", CONTENT, *cuts))) == CONTENT


@pytest.mark.parametrize("validator", ["modified", "weak", "none"])
def test_without_a_strong_etag_it_is_the_time_that_tells_versions_apart_and_without_that_all_comes_anew(
    server: Site, downloads: Downloads, validator: str
) -> None:
    url = server.put("x.img", CONTENT, Fault(cut=PART))
    file = server.files["/x.img"]
    file.etag = 'W/"1"' if validator == "weak" else None
    file.modified = None if validator == "none" else file.modified
    assert downloads.get(pinned(url)) == CONTENT
    condition = server.asked[1].headers.get("if-range")
    assert condition == (None if validator == "none" else "Tue, 14 Nov 2023 22:13:20 GMT")
    assert ("range" in server.asked[1].headers) == (validator != "none")


@pytest.mark.parametrize(
    "second",
    [
        Fault(no_range=True),
        Fault(headers={"Content-Range": f"bytes 0-{len(CONTENT) - 1}/{len(CONTENT)}"}),
        Fault(headers={"Content-Range": "bytes 5-6/7"}),
        Fault(headers={"Content-Range": "nonsense"}),
        Fault(headers={"ETag": '"another"'}),
        Fault(status=416),
    ],
    ids=["200", "range from the start", "another range", "no range", "another etag", "416"],
)
def test_an_answer_that_is_not_the_rest_is_not_put_behind_what_is_there(
    server: Site, downloads: Downloads, second: Fault
) -> None:
    assert downloads.get(pinned(server.put("x.img", CONTENT, Fault(cut=PART), second))) == CONTENT


def test_a_file_that_changes_between_two_parts_comes_anew(server: Site, downloads: Downloads) -> None:
    later = CONTENT[::-1]
    url = server.put("x.img", CONTENT, Fault(cut=PART, then=lambda: server.put("x.img", later)))
    assert downloads.get(pinned(url, f"sha256={hashlib.sha256(later).hexdigest()}")) == later


def test_one_that_was_changed_where_the_server_does_not_tell_is_refused(server: Site, downloads: Downloads) -> None:
    def change() -> None:
        etag = server.files["/x.img"].etag
        server.put("x.img", CONTENT[::-1])
        server.files["/x.img"].etag = etag

    url = server.put("x.img", CONTENT, Fault(cut=PART, then=change))
    assert "its digest is sha256:" in downloads.refused(pinned(url))
    assert len(server.asked) == 2


def test_a_packed_file_keeps_its_bytes_as_they_were_published(server: Site, downloads: Downloads) -> None:
    url = server.put("x.img.gz", CONTENT, Fault(headers={"Content-Encoding": "gzip"}))
    assert downloads.get(pinned(url)) == CONTENT


def test_chunks_without_a_length_come_whole(server: Site, downloads: Downloads) -> None:
    assert downloads.get(pinned(server.put("x.img", CONTENT, Fault(chunked=True)))) == CONTENT
    assert downloads.progress[-1] == ("downloading x.img", len(CONTENT), None)


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Length": "9" * 5000},
        {"Content-Length": "-1"},
        {"ETag": "unquoted", "Last-Modified": "\x1b[2J"},
        {"Content-Range": f"bytes {'9' * 5000}-1/1"},
        {"Retry-After": "9" * 5000},
    ],
)
def test_headers_that_make_no_sense_do_no_harm(server: Site, downloads: Downloads, headers: dict[str, str]) -> None:
    faults = [Fault(status=503, headers=headers)] if "Retry-After" in headers else []
    faults += [Fault(cut=PART), Fault(headers=headers)] if "Content-Range" in headers else [Fault(headers=headers)]
    assert downloads.get(pinned(server.put("x.img", CONTENT, *faults))) == CONTENT


def test_a_body_without_a_length_that_is_cut_is_not_taken_for_whole(server: Site, downloads: Downloads) -> None:
    url = server.put("x.img", CONTENT, Fault(cut=PART, headers={"Content-Length": "nonsense"}))
    assert "its digest is sha256:" in downloads.refused(pinned(url))
