"""Redis: what its append-only file is worth, by when it is synced."""

import pytest

CLI = "redis-cli -s /tmp/redis"


def serve(vm, folder, appendfsync="no"):
    """Have Redis serve what is in a folder, as soon as it has read it."""
    options = f"--appendonly yes --appendfsync {appendfsync} --save '' --dir {folder}"
    vm.run(f"redis-server --daemonize yes --port 0 --unixsocket /tmp/redis {options}")
    vm.wait_until_succeeds(f"{CLI} ping | grep PONG")


@pytest.fixture
def take(readonly_vm, ext4, orders):
    """A function that has orders taken, and gives what it recorded of the disk meanwhile."""

    def record(appendfsync):
        disk = ext4()
        readonly_vm.run("mkdir /data/redis")
        serve(readonly_vm, "/data/redis", appendfsync)
        readonly_vm.run("sync")
        with disk.record() as log:
            for number in orders:
                assert readonly_vm.run(f"{CLI} SET order:{number} taken").stdout == "OK\n"
                log.mark(f"order:{number}")
        return log

    return record


def keeps_every_order(cut):
    with cut.mount() as disk:
        serve(disk.vm, f"{disk.path}/redis")
        assert set(cut.acknowledged) <= set(disk.vm.run(f"{CLI} KEYS '*'").stdout.split())


def test_synced_always(take):
    take("always").verify(keeps_every_order)


def test_synced_when_the_kernel_likes(take):
    assert take("no").first_failing(keeps_every_order, minimise=0)
