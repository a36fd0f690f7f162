"""An image boots from wherever it is, however it is packed, and what is in the store stays as it is."""

import gzip
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_readonly_vm import DownloadError, ImageWarning, Lab, VirtualMachine, VmConfig
from pytest_readonly_vm.cli import main
from tests.accelerator import ACCEL
from tests.conftest import READY
from tests.guests import bootsector
from tests.qemu.image_tools import run, writer_image
from tests.qemu.test_images import WRITTEN, sees_its_own_writes_only
from tests.web_server import Site, site

pytestmark = pytest.mark.filterwarnings("ignore::pytest_readonly_vm.ImageWarning")


@pytest.fixture
def disks(tmp_path: Path) -> Path:
    folder = tmp_path / "disks"
    folder.mkdir()
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def server() -> Iterator[Site]:
    with site() as found:
        yield found


def packed(folder: Path) -> Path:
    """The guest `writer`, packed, under a name that says nothing of it."""
    path = folder / "image"
    path.write_bytes(gzip.compress(writer_image(folder / "disk.raw").read_bytes()))
    return path


def test_a_packed_image_that_was_changed_is_another_to_the_next_run(
    disks: Path, store: Path, boot: Callable[..., VirtualMachine], small: Callable[..., VmConfig]
) -> None:
    image = packed(disks)
    sees_its_own_writes_only(boot(image, ready=WRITTEN, image_store=store))
    image.write_bytes(gzip.compress(bootsector.write_image(disks / "other", bootsector.hello(READY)).read_bytes()))
    with Lab() as lab:
        assert "sector" not in lab.start(small(image, image_store=store), name="other").console.text
    assert len(list(store.glob("*/manifest.json"))) == 2


def test_an_image_comes_from_a_url_once_for_all_runs(
    disks: Path, store: Path, server: Site, boot: Callable[..., VirtualMachine]
) -> None:
    content = packed(disks).read_bytes()
    server.put("SHA256SUMS", f"{hashlib.sha256(content).hexdigest()} *disk.raw.gz\n".encode())
    url = server.put("disk.raw.gz", content)
    for _ in range(2):
        sees_its_own_writes_only(boot(f"{url}#insecure", ready=WRITTEN, image_store=store))
    assert len(server.requests("disk.raw.gz")) == 1
    assert not list((store / "downloads").iterdir())


def test_an_image_without_a_digest_is_asked_for_each_time_and_warned_of(
    disks: Path, store: Path, server: Site, boot: Callable[..., VirtualMachine]
) -> None:
    url = server.put("disk.raw", writer_image(disks / "disk.raw").read_bytes())
    with pytest.warns(ImageWarning) as warned:
        sees_its_own_writes_only(boot(f"{url}#insecure", ready=WRITTEN, image_store=store))
    assert [str(one.message) for one in warned if "without a digest" in str(one.message)] == [str(warned[-1].message)]
    assert len(warned) == 2
    assert len(list(store.glob("*/disk.raw"))) == 1


def test_a_digest_that_differs_is_an_error_with_both_and_nothing_is_kept(
    disks: Path, store: Path, server: Site, boot: Callable[..., VirtualMachine]
) -> None:
    content = packed(disks).read_bytes()
    url = server.put("disk.raw.gz", content)
    wanted, found = "0" * 64, hashlib.sha256(content).hexdigest()
    with pytest.raises(DownloadError, match=f"{wanted}.*{found}|{found}.*{wanted}"):
        boot(f"{url}#sha256={wanted}&insecure", image_store=store)
    assert [path.name for path in store.rglob("*") if path.is_file()] == []


def test_a_stranger_s_disk_may_not_name_files_of_this_computer(
    disks: Path, store: Path, server: Site, boot: Callable[..., VirtualMachine]
) -> None:
    base = writer_image(disks / "base.raw")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", disks / "top.qcow2")
    content = (disks / "top.qcow2").read_bytes()
    url = server.put("top.qcow2", content)
    with pytest.raises(Exception, match=r"top.qcow2.*written above another disk"):
        boot(f"{url}#sha256={hashlib.sha256(content).hexdigest()}&insecure", image_store=store)
    assert [path.name for path in store.rglob("*") if path.is_file()] == []


def test_workers_share_one_download_and_a_list_gives_names(
    disks: Path, store: Path, server: Site, pytester: pytest.Pytester, capsys: pytest.CaptureFixture[str]
) -> None:
    """The way of a project: a list, a step that pulls, tests by name in several processes."""
    content = packed(disks).read_bytes()
    server.put("disk.raw.gz.sha512", hashlib.sha512(content).hexdigest().encode())
    url = server.put("disk.raw.gz", content)
    settings = ["--set", "memory=16M", "--set", f"ready=console:{READY}"]
    assert main(["image", "add", "tiny", f"{url}#insecure", *settings]) == 0
    assert main(["image", "update"]) == 0
    assert "nothing has moved" in capsys.readouterr().out
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("number", range(4))
        def test_boots(readonly_vm, number):
            assert "hello" in readonly_vm.console.text
            assert str(readonly_vm.config.image) == "tiny"
        """
    )
    settings = [f"--vm-accel={ACCEL}", f"--vm-image-store={store}", "--vm-no-cache"]
    arguments = ["--vm-image=tiny", *settings, "-p", "xdist", "-n2"]
    pytester.runpytest_subprocess(*arguments).assert_outcomes(passed=4)
    assert len(server.requests("disk.raw.gz")) == 1
    server.files.clear()  # no network is needed once it is here
    pytester.runpytest_subprocess(*arguments).assert_outcomes(passed=4)


def test_update_shows_what_moved_before_it_writes(
    disks: Path, server: Site, pytester: pytest.Pytester, capsys: pytest.CaptureFixture[str]
) -> None:
    path = pytester.path / "vm-images.toml"
    old, new = hashlib.sha256(b"old").hexdigest(), hashlib.sha256(b"newer").hexdigest()
    server.put("disk.raw.sha256", old.encode())
    url = server.put("disk.raw", b"old")
    assert main(["image", "add", "tiny", f"{url}#insecure"]) == 0
    before = path.read_text()
    server.put("disk.raw.sha256", new.encode())
    server.put("disk.raw", b"newer")
    capsys.readouterr()
    assert main(["image", "update"]) == 1
    said = capsys.readouterr().out
    assert said.index(old[:12]) < said.index(new[:12])
    assert path.read_text() == before
    assert main(["image", "update", "tiny", "--yes"]) == 0
    assert path.read_text() == before.replace(old, new).replace("size = 3", "size = 5")
    assert main(["image", "list"]) == 0
    assert main(["image", "remove", "tiny"]) == 0
    assert "url" not in path.read_text()
    assert main(["image", "pull", "tiny"]) == 2
