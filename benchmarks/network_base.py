"""Measures what a base on the network costs: a Debian that boots, and that is copied, from a file, by NBD, by HTTP."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from benchmarks import guests
from benchmarks.samples import Samples
from benchmarks.table import Table
from pytest_readonly_vm.machine.lab import Lab
from tests.nbd import Nbdkit
from tests.web_server import site

RUNS = 5

_READ = "cat /usr/lib/x86_64-linux-gnu/*.so* /usr/bin/* 2>/dev/null | head -c 32000000 | wc -c"


def tables(runs: int) -> Iterator[Table]:
    """One of all three ways."""
    boots = Table("Debian until it is ready, by where its base is: a boot, nothing read before", "s")
    clones = Table("the same: a copy, and a command in it that starts a program", "ms")
    reads = Table("the same: a copy that reads 32 MB of programs and libraries", "s")
    with TemporaryDirectory(dir="/var/tmp") as name, ExitStack() as servers:
        config = guests.full().replace(no_cache=True, start="clone")
        for kind, image in _images(Path(str(config.image)), Path(name), servers):
            booted, cloned, read = [], [], []
            for _ in range((runs + 2) // 3):
                with Lab() as lab:
                    lab.start(config.replace(image=image), name="first").close()
                    [boot] = [one for one in lab.boots if one.manner == "boot"]
                    booted.append(boot.seconds)
                    for number in range(runs):
                        began = perf_counter()
                        vm = lab.start(config.replace(image=image), name="copy")
                        vm.run(["uname"])
                        cloned.append(perf_counter() - began)
                        if number == 0:
                            began = perf_counter()
                            vm.run(_READ, timeout=600)
                            read.append(perf_counter() - began)
                        vm.close()
                        lab.check_bases(during="the benchmark")
            for table, samples in ((boots, booted), (clones, cloned), (reads, read)):
                table.add(kind, Samples(tuple(samples)))
    boots.notes.append("Files are in the page cache, servers on this computer.")
    yield from (boots, clones, reads)


def _images(disk: Path, folder: Path, servers: ExitStack) -> Iterator[tuple[str, object]]:
    yield "a qcow2 file", disk
    server = servers.enter_context(Nbdkit(folder / "nbd.sock", disk, options=("-r",)))
    yield "the same by nbd+unix", server.url
    web = servers.enter_context(site())
    yield "the same by ranges+http", f"ranges+{web.put('disk.qcow2', disk.read_bytes())}#insecure"
