"""Downloads outlive processes, which share them; what has no room is a sentence."""

import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pytest_readonly_vm import HostError
from pytest_readonly_vm.config.image_url import ImageUrl
from pytest_readonly_vm.host.locks import try_lock
from pytest_readonly_vm.sources.download import transfer
from pytest_readonly_vm.sources.download.from_url import downloaded
from tests.mount_namespace import own_mounts
from tests.qemu.waiting import GENEROUS, eventually
from tests.unit.download.downloads import CONTENT, PART, SHA256, Downloads, pinned
from tests.unit.programs import program, says
from tests.web_server import Fault, Site

PROGRAM = """
import pathlib, signal, sys
from pytest_readonly_vm.config.image_url import ImageUrl
from pytest_readonly_vm.sources.download.from_url import downloaded
signal.signal(signal.SIGINT, signal.default_int_handler)  # which who runs us may have had ignored
folder = pathlib.Path(sys.argv[2])
say = lambda *words: print(*words, flush=True)
with downloaded(ImageUrl.parse(sys.argv[1]), folder, limit=1 << 30, progress=lambda *_: None, tell=say,
                warn=lambda _: None) as found:
    say("whole", found.sha256)
    sys.stdin.readline()
"""


def test_a_second_process_waits_and_finds_what_the_first_has_brought(server: Site, downloads: Downloads) -> None:
    gate = threading.Event()
    url = pinned(server.put("x.img", CONTENT, Fault(cut=PART, then=gate.wait)))
    with program(PROGRAM, url, downloads.folder) as first:
        eventually(lambda: list(downloads.folder.glob("*.part")), "the first one has begun")
        second = threading.Thread(target=downloads.get, args=(url,))
        second.start()
        eventually(lambda: downloads.progress, "the second one waits")
        assert downloads.told == [f"waiting for process {first.pid}, which downloads x.img"]
        assert downloads.progress[0][0] == f"downloading x.img, by process {first.pid}"
        gate.set()
        assert says(first) == f"whole sha256:{SHA256}"
        assert first.stdin is not None
        first.stdin.close()
        second.join()
    assert len(server.requests("x.img")) == 2  # of the first, which was cut
    assert downloads.left == []


def part_size(downloads: Downloads) -> int:
    """Bytes that are here of the one that is on its way."""
    return sum(path.stat().st_size for path in downloads.folder.glob("*.part"))


def test_the_run_after_a_kill_goes_on_where_it_was(server: Site, downloads: Downloads) -> None:
    url = pinned(server.put("x.img", CONTENT, Fault(stall=PART)))
    with program(PROGRAM, url, downloads.folder) as killed:
        assert server.sending.acquire(timeout=GENEROUS)
        eventually(lambda: part_size(downloads) == PART, "what was sent is on the disk")
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    assert downloads.left == [".json", ".lock", ".part"]
    assert downloads.get(url) == CONTENT
    assert server.asked[-1].headers["range"] == f"bytes={PART}-"
    assert downloads.left == []


def test_an_interrupt_leaves_what_can_be_gone_on_with(server: Site, downloads: Downloads) -> None:
    url = pinned(server.put("x.img", CONTENT, Fault(stall=PART)))
    with program(PROGRAM, url, downloads.folder) as interrupted:
        assert server.sending.acquire(timeout=GENEROUS)
        eventually(lambda: part_size(downloads) == PART, "what was sent is on the disk")
        interrupted.send_signal(signal.SIGINT)
        assert interrupted.wait(GENEROUS) == -signal.SIGINT
    assert downloads.left == [".json", ".part"]
    assert downloads.get(url) == CONTENT


def test_a_whole_file_that_nobody_has_taken_is_compared_and_not_transferred_again(
    server: Site, downloads: Downloads
) -> None:
    url = pinned(server.put("x.img", CONTENT))
    with program(PROGRAM, url, downloads.folder) as killed:
        assert says(killed) == f"whole sha256:{SHA256}"
        killed.kill()
    assert downloads.get(url) == CONTENT
    assert len(server.asked) == 1
    with program(PROGRAM, url, downloads.folder) as killed:
        assert says(killed) == f"whole sha256:{SHA256}"
        killed.kill()
    [whole] = [path for path in downloads.folder.iterdir() if not path.suffix]
    whole.write_bytes(CONTENT[::-1])
    assert downloads.get(url) == CONTENT
    assert len(server.asked) == 3


def test_one_that_is_stopped_is_not_waited_for_without_end(
    server: Site, downloads: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "STOPPED_PATIENCE", 0.05)
    url = pinned(server.put("x.img", CONTENT, Fault(stall=PART)))
    with program(PROGRAM, url, downloads.folder) as stopped:
        assert server.sending.acquire(timeout=GENEROUS)
        stopped.send_signal(signal.SIGSTOP)
        with pytest.raises(HostError, match=f"process {stopped.pid} downloads x.img and is stopped, by Ctrl-Z"):
            downloads.get(url)


def test_after_an_error_of_who_has_it_nothing_is_left(server: Site, downloads: Downloads) -> None:
    image = ImageUrl.parse(pinned(server.put("x.img", CONTENT)))
    with (
        pytest.raises(OSError, match="unpacking"),
        downloaded(
            image, downloads.folder, limit=1 << 30, progress=lambda *_: None, tell=pytest.fail, warn=lambda _: None
        ),
    ):
        raise OSError("unpacking")
    assert downloads.left == []


def test_a_full_disk_is_a_sentence_and_leaves_nothing(server: Site, tmp_path: Path) -> None:
    lies = Fault(chunked=True)  # so that nobody knows before how long it is
    urls = [pinned(server.put("x.img", CONTENT)), pinned(server.put("y.img", CONTENT, lies))]
    small = tmp_path / "small"
    small.mkdir()
    for url, sentence in zip(
        urls, ("has 1 MiB free, too little for the 3 MiB of x.img", "cannot take the"), strict=True
    ):
        command = f'mount -t tmpfs -o size=2m none {small} && "$@"; ls {small}'
        done = subprocess.run(
            [*own_mounts(), "sh", "-c", command, "sh", sys.executable, "-c", PROGRAM, url, str(small)],
            capture_output=True, text=True, check=False, timeout=GENEROUS,
        )  # fmt: skip
        assert done.stdout == ""
        last = done.stderr.splitlines()[-1]
        assert last.startswith("pytest_readonly_vm.OutOfSpace: ")
        assert sentence in last
        assert last.endswith("; make room, or name another folder by --vm-image-store=DIR")


def test_a_limit_for_files_is_a_sentence_and_leaves_nothing(server: Site, downloads: Downloads) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    url = pinned(server.put("x.img", CONTENT))
    resource.setrlimit(resource.RLIMIT_FSIZE, (PART, before[1]))
    try:
        sentence = downloads.refused(url)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert f"a file of this process may have no more than {PART} bytes (ulimit -f)" in sentence


def test_what_nobody_has_gone_on_with_for_weeks_goes(server: Site, downloads: Downloads) -> None:
    for name in ("dead.part", "dead.json", "held.part"):
        (downloads.folder / name).write_bytes(b"")
        os.utime(downloads.folder / name, (0, 0))
    lock = try_lock(downloads.folder / "held.lock", make=0o600)
    assert lock is not None
    with lock:
        downloads.get(pinned(server.put("x.img", CONTENT)))
    assert {path.name for path in downloads.folder.iterdir()} >= {"held.part", "held.lock"}
    assert not list(downloads.folder.glob("dead.*"))
