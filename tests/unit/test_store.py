"""The store of images: each made once, whoever asks; nothing half, nothing changed, nothing beyond the limit."""

import contextlib
import multiprocessing
import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_readonly_vm.errors import HostError, ImageError
from pytest_readonly_vm.sources.store import ImageStore, StoredImage

_MIB = 1 << 20


def maker(content: bytes, name: str = "disk.raw", made: list[str] | None = None) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        if made is not None:
            made.append(name)
        (folder / "rest").mkdir()
        (folder / name).write_bytes(content)
        return folder / name

    return make


def get(store: ImageStore, source: str, make: Callable[[Path], Path]) -> StoredImage:
    return store.get(source, make, shown=f"image of {source}", on_wait=lambda sentence: None)


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@contextlib.contextmanager
def few_descriptors(left: int) -> Iterator[None]:
    """This process may open so many files more."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open("/", os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + left, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "images"


def test_an_image_is_made_once_and_cannot_be_written(folder: Path) -> None:
    made: list[str] = []
    first = get(ImageStore(folder, limit=_MIB), "a", maker(b"one", made=made))
    again = get(ImageStore(folder, limit=_MIB), "a", maker(b"other", made=made))
    assert first.path == again.path
    assert again.path.name == "disk.raw"
    assert again.path.read_bytes() == b"one"
    assert again.path.stat().st_mode & 0o777 == 0o400
    assert folder.stat().st_mode & 0o777 == 0o700
    assert made == ["disk.raw"]
    assert not [name for name in names(folder) if "rest" in name or ".half" in name or name.endswith(".lock")]


def test_the_same_content_from_two_sources_is_there_once(folder: Path) -> None:
    store = ImageStore(folder, limit=_MIB)
    assert get(store, "a", maker(b"one")).path == get(store, "b", maker(b"one", "other.raw")).path


def test_of_what_cannot_be_made_nothing_is_left_and_it_is_tried_again(folder: Path) -> None:
    store = ImageStore(folder, limit=_MIB)
    before = names(folder)

    def fail(place: Path) -> Path:
        (place / "disk.raw").write_bytes(bytes(100))
        raise ImageError("no")

    with pytest.raises(ImageError, match="no"):
        get(store, "a", fail)
    assert names(folder) == before
    assert get(store, "a", maker(b"one")).path.read_bytes() == b"one"


def test_an_image_beyond_the_limit_is_refused_in_a_sentence(folder: Path) -> None:
    store = ImageStore(folder, limit=_MIB)
    before = names(folder)
    with pytest.raises(ImageError, match=r"image of a takes 2 MiB, more than the 1 MiB .*--vm-image-store-size"):
        get(store, "a", maker(os.urandom(2 * _MIB)))
    assert names(folder) == before


def test_what_was_not_used_for_the_longest_time_goes_unless_somebody_uses_it(folder: Path) -> None:
    store = ImageStore(folder, limit=3 * _MIB)
    paths = {}
    for number, source in enumerate("abc"):
        with (stored := get(store, source, maker(os.urandom(_MIB)))).lock:
            paths[source] = stored.path
            os.utime(stored.path.with_name("manifest.json"), (number, number))
    used = get(store, "b", maker(b""))
    os.utime(used.path.with_name("manifest.json"), (0, 0))
    get(store, "d", maker(os.urandom(_MIB)))
    assert [source for source, path in paths.items() if path.exists()] == ["b", "c"]
    used.lock.release()
    get(store, "e", maker(os.urandom(_MIB)))
    assert [source for source, path in paths.items() if path.exists()] == ["c"]


@pytest.mark.parametrize("is_used", [False, True])
@pytest.mark.parametrize("damage", ["content", "length", "gone", "link", "manifest"])
def test_a_damaged_image_is_made_again(folder: Path, damage: str, is_used: bool) -> None:
    store = ImageStore(folder, limit=_MIB)
    path = (stored := get(store, "a", maker(b"one"))).path
    if not is_used:
        stored.lock.release()
    path.chmod(0o600)
    match damage:
        case "content":
            path.write_bytes(b"two")
        case "length":
            path.write_bytes(b"longer")
        case "gone":
            path.unlink()
        case "link":
            other = folder.parent / "one"
            other.write_bytes(b"one")
            path.unlink()
            path.symlink_to(other)
        case "manifest":
            path.with_name("manifest.json").write_text("[]")
    found = get(store, "a", maker(b"one"))
    assert found.path.read_bytes() == b"one"
    assert not found.path.is_symlink()


@pytest.mark.parametrize("is_used", [False, True])
@pytest.mark.parametrize("left", range(4))
def test_a_passing_lack_costs_no_image(folder: Path, left: int, is_used: bool) -> None:
    """Of descriptors, at whichever file of an entry they come to an end."""
    store = ImageStore(folder, limit=_MIB)
    path = (stored := get(store, "a", maker(b"one"))).path
    if not is_used:
        stored.lock.release()
    path.chmod(0o600)  # so that it is compared, and its manifest written anew
    made: list[str] = []
    with few_descriptors(left), contextlib.suppress(OSError, HostError):
        get(store, "a", maker(b"one", made=made))
    assert path.read_bytes() == b"one"
    assert get(store, "a", maker(b"one", made=made)).path == path
    assert made == []


def test_a_manifest_that_cannot_be_written_costs_no_image(folder: Path) -> None:
    store = ImageStore(folder, limit=_MIB)
    with (stored := get(store, "a", maker(b"one"))).lock:
        stored.path.chmod(0o600)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, before[1]))  # EFBIG: Python ignores the signal
    try:
        assert get(store, "a", lambda _: pytest.fail("made anew")).path.read_bytes() == b"one"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_the_word_that_an_image_is_whole_comes_after_the_image(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the disk, so that after a power cut there are no zeros behind a manifest."""
    synced: list[tuple[str, bool]] = []

    def sync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        there = path if path.is_dir() else path.parent
        synced.append((path.suffix, (there / "manifest.json").exists()))

    monkeypatch.setattr(os, "fsync", sync)
    get(ImageStore(folder, limit=_MIB), "a", maker(b"one", "x.raw"))
    assert (".raw", False) in synced
    assert [is_whole for _, is_whole in synced] == [False, False]


def test_a_store_that_was_copied_from_elsewhere_is_used_as_it_is(folder: Path) -> None:
    """As a cache of CI restores it: other inodes and times, the same content."""
    with get(ImageStore(folder, limit=_MIB), "a", maker(b"one")).lock:
        pass
    moved = folder.with_name("moved")
    shutil.copytree(folder, moved, copy_function=shutil.copyfile)
    moved.chmod(0o700)
    made: list[str] = []
    assert get(ImageStore(moved, limit=_MIB), "a", maker(b"two", made=made)).path.read_bytes() == b"one"
    assert made == []


def _make_and_die(folder: Path) -> None:
    def make(place: Path) -> Path:
        (place / "disk.raw").write_bytes(bytes(_MIB))
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    get(ImageStore(folder, limit=2 * _MIB), "a", make)


def test_what_a_killed_process_left_is_swept_and_never_used(folder: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=_make_and_die, args=(folder,))
    process.start()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    assert [name for name in names(folder) if "disk.raw" in name]
    store = ImageStore(folder, limit=2 * _MIB)
    assert not [name for name in names(folder) if "disk.raw" in name or name.endswith(".lock")]
    assert get(store, "a", maker(b"one")).path.read_bytes() == b"one"


def _make_slowly(folder: Path, results: "multiprocessing.SimpleQueue[tuple[str, bool]]") -> None:
    made: list[str] = []
    content = bytes(range(256)) * 4 * 1024 * 4
    path = get(ImageStore(folder, limit=64 * _MIB), "a", maker(content, made=made)).path
    results.put((str(path), bool(made)))


def test_several_processes_at_once_make_it_once(folder: Path) -> None:
    context = multiprocessing.get_context("fork")
    results: multiprocessing.SimpleQueue[tuple[str, bool]] = context.SimpleQueue()
    ImageStore(folder, limit=64 * _MIB)
    processes = [context.Process(target=_make_slowly, args=(folder, results)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    found = [results.get() for _ in processes]
    assert len({path for path, _ in found}) == 1
    assert sum(made for _, made in found) == 1


def test_a_folder_of_others_is_refused(folder: Path) -> None:
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    with pytest.raises(HostError, match="--vm-image-store=DIR"):
        ImageStore(folder, limit=_MIB)
