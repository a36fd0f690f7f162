"""Templates on disk: whole or not there, nobody else's, within the limit, whoever is killed and whatever is damaged."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pytest_readonly_vm import HostError
from pytest_readonly_vm.start.cache import Damaged, TemplateCache, default_folder
from tests.descriptors import descriptors
from tests.mount_namespace import own_mounts
from tests.qemu.waiting import eventually
from tests.unit.programs import program, says, start_together

A, B, C = ("a" * 64, "b" * 64, "c" * 64)
MIB = 1 << 20

START = """
import os, sys
from pathlib import Path
from pytest_readonly_vm.start.cache import Damaged, TemplateCache
def memory(data):
    descriptor = os.memfd_create("source")
    os.write(descriptor, data)
    return descriptor
folder, key = Path(sys.argv[1]), sys.argv[2]
cache = TemplateCache(folder, limit=1 << 30)
"""
"""Of a program that is given the folder and a key."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "templates"


@pytest.fixture
def cache(folder: Path) -> TemplateCache:
    return TemplateCache(folder, limit=1 << 30)


def add(cache: TemplateCache, key: str, **files: bytes) -> None:
    with contextlib.ExitStack() as stack:
        descriptors = {}
        for name, data in files.items():
            descriptors[name] = os.memfd_create(name)
            stack.callback(os.close, descriptors[name])
            os.write(descriptors[name], data)
        cache.add(key, descriptors, description={"image": "base.qcow2"}, facts={"port": 1, "names": ["x"]})


def taken(descriptor: int) -> bytes:
    try:
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    finally:
        os.close(descriptor)


def loaded(cache: TemplateCache, key: str, name: str = "ram") -> bytes:
    entry = cache.find(key)
    assert entry is not None
    return taken(entry.load_sealed(name))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# What is kept


def test_what_was_put_in_comes_out_in_another_run(cache: TemplateCache, folder: Path) -> None:
    assert cache.find(A) is None
    add(cache, A, ram=b"r" * 100_000, disk=b"d")
    entry = TemplateCache(folder, limit=0).find(A)
    assert entry is not None
    assert (entry.key, entry.description, entry.facts) == (A, {"image": "base.qcow2"}, {"port": 1, "names": ["x"]})
    assert taken(entry.load_sealed("ram")) == b"r" * 100_000
    disk = entry.open_verified("disk")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.write(disk, b"x")
    assert not os.get_inheritable(disk)
    assert taken(disk) == b"d"


def test_it_is_kept_from_others(cache: TemplateCache, folder: Path) -> None:
    add(cache, A, ram=b"secret")
    assert [path.stat().st_mode & 0o777 for path in (folder, folder / A, folder / A / "ram")] == [0o700, 0o700, 0o400]


def test_an_entry_of_the_same_key_is_replaced(cache: TemplateCache, folder: Path) -> None:
    add(cache, A, ram=b"old", extra=b"")
    add(cache, A, ram=b"new")
    assert loaded(cache, A) == b"new"
    assert names(folder / A) == ["manifest.json", "ram"]
    assert names(folder) == [A]


def test_an_entry_in_use_may_go(cache: TemplateCache, folder: Path) -> None:
    add(cache, A, ram=b"r" * MIB)
    entry = cache.find(A)
    assert entry is not None
    descriptor = entry.open_verified("ram")
    with program(START + "assert cache.remove(key); print('gone')", folder, A) as other:
        assert says(other) == "gone"
    assert names(folder) == []
    assert taken(descriptor) == b"r" * MIB
    with pytest.raises(Damaged, match=r"ram cannot be loaded: No such file"):
        entry.load_sealed("ram")
    assert cache.find(A) is None
    assert cache.remove(A)


# Damage


@pytest.mark.parametrize("position", [0, 70_000, MIB - 1])
def test_a_changed_byte_is_noticed_whichever_way_the_file_is_opened(
    cache: TemplateCache, folder: Path, position: int
) -> None:
    add(cache, A, ram=b"r" * MIB)
    (folder / A / "ram").chmod(0o600)
    with (folder / A / "ram").open("r+b") as file:
        file.seek(position)
        file.write(b"R")
    entry = cache.find(A)
    assert entry is not None
    before = descriptors()
    for way in (entry.load_sealed, entry.open_verified):
        with pytest.raises(Damaged, match="ram is not what was put there"):
            way("ram")
    assert not descriptors() - before
    assert cache.remove(A)
    add(cache, A, ram=b"mended")
    assert loaded(cache, A) == b"mended"


def cut(entry: Path) -> None:
    (entry / "ram").chmod(0o600)
    os.truncate(entry / "ram", 5)


def lose(entry: Path) -> None:
    (entry / "ram").unlink()


def lose_manifest(entry: Path) -> None:
    (entry / "manifest.json").unlink()


def empty_manifest(entry: Path) -> None:
    (entry / "manifest.json").write_bytes(b"")


def other_json(entry: Path) -> None:
    (entry / "manifest.json").write_text('{"format": 99}')


def link(entry: Path) -> None:
    (entry / "ram").rename(entry.parent.parent / "aram")
    (entry / "ram").symlink_to("../../aram")  # as long as the file is


def file_in_its_place(entry: Path) -> None:
    entry.rename(entry.parent / "elsewhere")
    entry.write_text("not a folder")


@pytest.mark.parametrize("damage", [cut, lose, lose_manifest, empty_manifest, other_json, link, file_in_its_place])
def test_what_is_not_whole_is_not_found_and_goes(
    cache: TemplateCache, folder: Path, damage: Callable[[Path], None]
) -> None:
    add(cache, A, ram=b"0123456789")
    damage(folder / A)
    assert cache.find(A) is None
    assert not os.path.lexists(folder / A)
    add(cache, A, ram=b"anew")
    assert loaded(cache, A) == b"anew"


def test_an_entry_under_the_key_of_another_is_not_found_and_goes(cache: TemplateCache, folder: Path) -> None:
    add(cache, A, ram=b"x")
    (folder / A).rename(folder / B)
    assert cache.entries() == []
    assert names(folder) == []


def test_no_damage_to_a_manifest_goes_unnoticed(cache: TemplateCache, folder: Path) -> None:
    add(cache, A, ram=b"x")
    manifest = folder / A / "manifest.json"
    whole = manifest.read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        manifest.write_bytes(damaged)
        assert cache.find(A) is None, bytes(damaged)
        add(cache, A, ram=b"x")


# Whose folder


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o701, 0o777])
def test_a_folder_that_is_open_to_others_is_refused(folder: Path, mode: int) -> None:
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(HostError, match=rf"is not a folder that only you can use \(owner \d+, mode {mode:o}\)"):
        TemplateCache(folder, limit=0)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder to somebody else")
def test_a_folder_of_somebody_else_is_refused(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    os.chown(folder, 12345, -1)
    with pytest.raises(HostError, match=r"only you can use \(owner 12345, mode 700\)"):
        TemplateCache(folder, limit=0)


def test_a_link_or_a_file_in_the_place_of_the_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HostError, match="is not a folder that only you can use"):
        TemplateCache(folder, limit=0)
    folder.unlink()
    folder.touch()
    with pytest.raises(HostError, match="cannot be used: File exists"):
        TemplateCache(folder, limit=0)


def test_the_folder_is_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert default_folder() == tmp_path / "cache/pytest-readonly-vm/templates"
    monkeypatch.setenv("HOME", str(tmp_path))
    for useless in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", useless)
        assert default_folder() == tmp_path / ".cache/pytest-readonly-vm/templates"


def test_a_folder_that_is_taken_away_costs_the_template_only(cache: TemplateCache, folder: Path) -> None:
    folder.rmdir()
    with cache.lock(A, on_wait=pytest.fail, patience=60):
        assert cache.find(A) is None
        with pytest.raises(FileNotFoundError):
            add(cache, A, ram=b"x")


# Room


def test_those_that_were_not_used_for_the_longest_time_go(folder: Path) -> None:
    cache = TemplateCache(folder, limit=5 * MIB // 2)
    add(cache, A, ram=b"a" * MIB)
    add(cache, B, ram=b"b" * MIB)
    for number, key in enumerate((A, B)):
        os.utime(folder / key / "manifest.json", (number, number))
    assert cache.find(A) is not None
    assert [entry.key for entry in cache.entries()] == [A, B]
    add(cache, C, ram=b"c" * MIB)
    assert [entry.key for entry in cache.entries()] == [C, A]
    assert sum(entry.size for entry in cache.entries()) <= cache.limit


def test_the_newest_stays_even_if_the_clock_was_set_back(folder: Path) -> None:
    cache = TemplateCache(folder, limit=3 * MIB // 2)
    add(cache, A, ram=b"a" * MIB)
    os.utime(folder / A / "manifest.json", (1 << 32, 1 << 32))
    add(cache, B, ram=b"b" * MIB)
    assert [entry.key for entry in cache.entries()] == [B]


def test_holes_take_no_room(folder: Path) -> None:
    cache = TemplateCache(folder, limit=MIB)
    ram = os.memfd_create("ram")
    os.ftruncate(ram, 1 << 30)
    os.pwrite(ram, b"x", 1 << 29)
    cache.add(A, {"ram": ram}, description={}, facts={})
    os.close(ram)
    entry = cache.find(A)
    assert entry is not None
    assert entry.size < 64 << 10
    loaded = entry.load_sealed("ram")
    assert (os.fstat(loaded).st_size, os.fstat(loaded).st_blocks) == (1 << 30, 8)
    os.close(loaded)


def test_one_that_is_beyond_the_limit_alone_is_not_kept_and_drives_nobody_out(folder: Path) -> None:
    cache = TemplateCache(folder, limit=3 * MIB)
    add(cache, A, ram=b"a" * MIB)
    with pytest.raises(OSError, match="it has 4 MiB, and the limit is 3 MiB") as caught:
        add(cache, B, ram=b"b" * (4 * MIB))
    assert caught.value.errno == errno.EFBIG
    assert names(folder) == [A]


def test_one_that_takes_more_memory_than_the_limit_is_not_even_written(folder: Path) -> None:
    cache = TemplateCache(folder, limit=3 * MIB)
    with pytest.raises(OSError, match="it has 4 MiB, and the limit is 3 MiB"):
        add(cache, A, ram=bytes(4 * MIB))  # would be a hole when written


def test_a_full_disk_leaves_nothing_and_harms_nobody(tmp_path: Path) -> None:
    code = START + (
        "cache.add(key, {'ram': memory(b'x' * 100_000)}, description={}, facts={})\n"
        "try:\n"
        "    cache.add('f' * 64, {'ram': memory(os.urandom(8 << 20))}, description={}, facts={})\n"
        "except OSError as error:\n"
        "    print(error.strerror)\n"
        "print(os.listdir(folder) == [key])\n"
        "print(os.pread(cache.find(key).load_sealed('ram'), 1 << 20, 0) == b'x' * 100_000)\n"
    )
    mounted = f'mount -t tmpfs -o size=4m,mode=700 none {tmp_path} && exec "$@"'
    done = subprocess.run(
        [
            *own_mounts(), "sh", "-c", mounted, "sh",
            sys.executable, "-c", code, str(tmp_path), A,
        ],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["No space left on device", "True", "True"]


# Several at once


def test_one_makes_what_many_processes_want(folder: Path) -> None:
    code = (
        "print('ready', flush=True); sys.stdin.readline()\n"
        "with cache.lock(key, on_wait=lambda sentence: None, patience=60):\n"
        "    if cache.find(key) is None:\n"
        "        with (folder.parent / 'makers').open('a') as file:\n"
        "            print(os.getpid(), file=file)\n"
        "        cache.add(key, {'ram': memory(os.urandom(4 << 20))}, description={}, facts={})\n"
        "os.close(cache.find(key).load_sealed('ram'))\n"
    )
    with contextlib.ExitStack() as stack:
        wanting = [stack.enter_context(program(START + code, folder, A)) for _ in range(4)]
        assert [says(process) for process in wanting] == ["ready"] * 4
        start_together(wanting)
    assert len((folder.parent / "makers").read_text().splitlines()) == 1
    assert names(folder) == [A]


def test_one_makes_what_many_threads_want(cache: TemplateCache) -> None:
    makers = []
    together = threading.Barrier(8)

    def want(_: int) -> None:
        together.wait()
        with cache.lock(A, on_wait=lambda sentence: None, patience=60):
            if cache.find(A) is None:
                makers.append(threading.get_ident())
                add(cache, A, ram=b"x")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(want, range(8)))
    assert len(makers) == 1


def test_two_processes_that_add_the_same_at_once_leave_one_entry_and_a_reader_sees_no_half(
    cache: TemplateCache, folder: Path
) -> None:
    code = (
        "letter = sys.stdin.readline().strip().encode()\n"
        "for _ in range(40):\n"
        "    cache.add(key, {'ram': memory(letter * 500_000), 'disk': memory(letter)}, description={}, facts={})\n"
    )
    seen = set()
    with program(START + code, folder, A) as one, program(START + code, folder, A) as two:
        for process, letter in ((one, "1"), (two, "2")):
            assert process.stdin is not None
            process.stdin.write(f"{letter}\n")
            process.stdin.flush()
        while one.poll() is None or two.poll() is None:
            with contextlib.suppress(Damaged):
                if (entry := cache.find(A)) is not None:
                    ram = taken(entry.load_sealed("ram"))
                    assert ram in (b"1" * 500_000, b"2" * 500_000)
                    seen.add(ram[:1])
        assert (one.returncode, two.returncode) == (0, 0)
    assert seen
    assert loaded(cache, A)[:1] == loaded(cache, A, "disk")
    TemplateCache(folder, limit=0)
    assert names(folder) == [A]


def test_what_a_killed_process_was_writing_is_swept_and_what_a_living_one_writes_is_not(folder: Path) -> None:
    code = (
        "source = memory(os.urandom(32 << 20))\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    cache.add(key, {'ram': source}, description={}, facts={})\n"
    )
    with program(START + code, folder, A) as writer:
        assert says(writer) == "ready"

        def is_stopped_while_it_writes() -> list[str]:
            writer.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, writer.pid, os.WSTOPPED | os.WEXITED)
            half = [path.parent.name for path in folder.glob(".half-*/ram") if path.stat().st_blocks]
            if not half:
                writer.send_signal(signal.SIGCONT)
            return half

        (half,) = eventually(is_stopped_while_it_writes, "a process stopped while it writes an entry")
        TemplateCache(folder, limit=0)
        assert half in names(folder)
        writer.kill()
        writer.wait()
    assert half in names(folder)
    TemplateCache(folder, limit=0)
    assert not list(folder.glob(".half-*"))


def test_sweeping_takes_what_is_the_caches_and_leaves_the_rest(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    for name in (f"{A}.lock", ".half-file", "notes.txt", "other.lock"):
        (folder / name).touch()
    (folder / ".half-folder").mkdir()
    (folder / ".half-folder" / "ram").touch(mode=0o400)
    assert TemplateCache(folder, limit=0).entries() == []
    assert names(folder) == ["notes.txt", "other.lock"]
