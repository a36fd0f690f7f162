"""The command ``readonly-vm image``, beside a real web server: what it writes into a list, and what it shows."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_readonly_vm.cli import main
from tests.guests import bootsector
from tests.web_server import Site, site

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def server() -> Iterator[Site]:
    with site() as found:
        yield found


@pytest.fixture(autouse=True)
def empty(server: Site) -> None:
    server.files.clear()


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The list that counts here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "vm-images.toml"


def sha(content: bytes, algorithm: str = "sha256") -> str:
    return hashlib.new(algorithm, content).hexdigest()


def entry(path: Path, name: str, url: str, **values: object) -> None:
    lines = [f'{key} = "{value}"' if isinstance(value, str) else f"{key} = {value}" for key, value in values.items()]
    with path.open("a") as file:
        file.write("\n".join((f"[{name}]", f'url = "{url}"', *lines, "")))


@pytest.mark.parametrize("by_option", [False, True], ids=["environment", "option"])
def test_pull_fills_the_store_that_the_tests_use(
    path: Path, server: Site, monkeypatch: pytest.MonkeyPatch, capsys: Capture, by_option: bool
) -> None:
    content = bootsector.write_image(path.with_name("disk"), bootsector.hello("ready")).read_bytes()
    url = server.put("disk.raw", content)
    entry(path, "here", f"{url}#insecure", digest=f"sha256:{sha(content)}")
    entry(path, "elsewhere", f"{url}#insecure", digest=f"sha256:{'0' * 64}")
    entry(path, "asked", f"{url}#insecure")
    entry(path, "mine", "disk")
    store = path.with_name("store")
    options = [f"--image-store={store}", "--image-store-size=1G"] if by_option else []
    if not by_option:
        monkeypatch.setenv("PYTEST_VM_IMAGE_STORE", str(store))
    assert main(["image", "list", *options]) == 0
    assert not store.exists()
    assert main(["image", "pull", "here", "mine", *options]) == 0
    capsys.readouterr()
    assert main(["image", "list", *options]) == 0
    ends = [line.rpartition(", ")[2] for line in capsys.readouterr().out.splitlines()[:-1]]
    assert ends == ["in the store", "not in the store", "asked for in each run", "used where it is"]
    assert not path.with_name("cache").exists()
    assert main(["image", "list", "--store", *options]) == 0
    head, row, total = capsys.readouterr().out.splitlines()
    assert head.split() == ["DIGEST", "SIZE", "LAST", "USED", "NAME", "MADE", "OF"]
    [digest] = [folder.parent.name for folder in store.glob("*/manifest.json")]
    assert re.match(rf"{digest[:12]}  [01]\.\d MiB  just now   disk\.raw  base image here, ", row)
    assert total.startswith(f"1 image in {store}, ")
    assert main(["image", "clear", "f" * 65, *options]) == 2
    assert main(["image", "clear", digest[:12], *options]) == 0
    assert "removed 1 image from" in capsys.readouterr().out
    assert not list(store.glob("*/manifest.json"))


def test_a_store_that_is_too_small_is_said_and_others_come_all_the_same(
    path: Path, server: Site, capsys: Capture
) -> None:
    content = b"\x55" * (2 << 20)
    entry(path, "large", f"{server.put('large.raw', content)}#insecure", digest=f"sha256:{sha(content)}")
    bootsector.write_image(path.with_name("disk"), bootsector.hello("ready"))
    entry(path, "mine", "disk")
    assert main(["image", "pull", "--image-store-size=1M"]) == 1
    said = capsys.readouterr()
    assert "readonly-vm: large: " in said.err
    assert said.out == f"mine: {path.with_name('disk')}\n"


def test_pull_heeds_the_list_that_is_named(path: Path, capsys: Capture) -> None:
    bootsector.write_image(path.with_name("disk"), bootsector.hello("ready"))
    entry(path.with_name("other.toml"), "mine", "disk")
    assert main(["image", "pull", "--list=other.toml"]) == 0
    assert capsys.readouterr().out == f"mine: {path.with_name('disk')}\n"


def test_update_never_takes_a_digest_away(path: Path, server: Site, capsys: Capture) -> None:
    entry(path, "a", f"{server.put('x.raw', b'old')}#insecure", digest=f"sha256:{sha(b'old')}", size=3)
    before = path.read_text()
    assert main(["image", "update", "--yes"]) == 0
    assert "a: nobody says which digest it has by now\nnothing has moved" in capsys.readouterr().out
    server.put("x.raw", b"newer")
    assert main(["image", "update", "--yes"]) == 1
    assert "by now, and its size is 5 bytes instead of 3" in capsys.readouterr().err
    assert path.read_text() == before


def test_update_compares_digests_of_one_kind(path: Path, server: Site, capsys: Capture) -> None:
    server.put("SHA512SUMS", f"{sha(b'old', 'sha512')}  x.raw\n".encode())
    server.put("SHA256SUMS", f"{sha(b'old')}  x.raw\n".encode())
    entry(path, "a", f"{server.put('x.raw', b'old')}#insecure", digest=f"sha256:{sha(b'old')}")
    assert main(["image", "update", "--yes"]) == 0
    assert "nothing has moved" in capsys.readouterr().out
    server.put("SHA256SUMS", f"{sha(b'new')}  x.raw\n".encode())
    assert main(["image", "update", "--yes"]) == 0
    assert f'digest = "sha256:{sha(b"new")}"' in path.read_text()


def test_update_says_that_a_url_pins_itself_and_takes_its_word(path: Path, server: Site, capsys: Capture) -> None:
    url = f"{server.url}/not-asked-for.raw"
    entry(path, "a", f"{url}#sha256={'0' * 64}&insecure", digest=f"sha256:{'0' * 64}")
    entry(path, "b", f"{url}#sha256={'1' * 64}&insecure", digest=f"sha256:{'0' * 64}", size=7)
    assert main(["image", "update", "--yes"]) == 0
    said = capsys.readouterr().out
    assert "a: its URL says itself which it is\n" in said
    assert "b: sha256:000000000000…, 0.0 MiB\n   is now sha256:111111111111…\n" in said
    assert path.read_text().endswith(f'digest = "sha256:{"1" * 64}"\n')


def test_update_goes_on_after_an_error(path: Path, server: Site, capsys: Capture) -> None:
    entry(path, "gone", f"{server.url}/gone.raw#insecure", digest=f"sha256:{'0' * 64}")
    entry(path, "wrong", "ftp://example.org/x")
    entry(path, "odd", f"{server.url}/gone.raw#insecure", digest="sha256:12")
    server.put("x.raw.sha256", sha(b"new").encode())
    entry(path, "moved", f"{server.put('x.raw', b'new')}#insecure", digest=f"sha256:{'0' * 64}")
    assert main(["image", "update", "--yes"]) == 1
    said = capsys.readouterr().err
    assert all(f"readonly-vm: {name}: " in said for name in ("gone", "wrong", "odd"))
    assert f'digest = "sha256:{sha(b"new")}"' in path.read_text()


@pytest.mark.parametrize("name", ["image", "url", "digest", "size"])
def test_what_makes_no_list_is_not_written(path: Path, capsys: Capture, name: str) -> None:
    path.with_name("x.raw").touch()
    assert main(["image", "add", "a", "x.raw", "--set", f"{name}=foo"]) == 2
    assert f"--set: {name} is no setting that goes with an image" in capsys.readouterr().err
    assert not path.exists()


def test_secrets_are_not_shown_and_those_in_the_list_are_told(path: Path, server: Site, capsys: Capture) -> None:
    server.put("x.raw.sha256", sha(b"x").encode())
    url = server.put("x.raw", b"x").replace("http://", "http://me:s3cret@")
    assert main(["image", "add", "plain", f"{server.url}/x.raw#insecure", "--set", "password=s3cret"]) == 0
    assert "committed" not in capsys.readouterr().err
    assert main(["image", "add", "secret", f"{url}?signature=s3cret#insecure"]) == 0
    assert main(["image", "list"]) == 0
    said = capsys.readouterr()
    assert "s3cret" not in said.out + said.err
    assert f"the URL's user and password, and what is behind the ? is in {path} now" in said.err
    assert "a password" in said.out


def test_warnings_are_sentences(path: Path, server: Site, capsys: Capture) -> None:
    server.put("x.raw.sha256", sha(b"x").encode())
    assert main(["image", "add", "a", f"{server.put('x.raw', b'x')}#insecure"]) == 0
    [warned] = capsys.readouterr().err.splitlines()
    assert warned.startswith(f"readonly-vm: {server.url}/x.raw comes by http")
