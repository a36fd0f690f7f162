"""dpkg: it recovers, whenever power goes, unless it was told that nothing matters."""

import pytest
from states import PACKAGE, packaged

pytestmark = pytest.mark.vm(layers=[packaged])


@pytest.fixture
def install(readonly_vm, ext4):
    """A function that has the package installed below /data, and gives what it recorded of the disk meanwhile."""

    def record(**env):
        disk = ext4()
        readonly_vm.run("cd /data && mkdir -p var/lib/dpkg/info var/lib/dpkg/updates && touch var/lib/dpkg/status")
        for what in (["--install", PACKAGE], ["--purge", "shop"]):  # so that dpkg has been at work there before
            readonly_vm.run(dpkg("/data", *what))
        readonly_vm.run("sync")
        with disk.record() as log:
            readonly_vm.run(dpkg("/data", "--install", PACKAGE), env=env)
            readonly_vm.run("echo >/data/other && sync /data/other")
        return log

    return record


def dpkg(root, *what):
    return ["/usr/bin/dpkg", f"--root={root}", *what]


def recovers(cut):
    """What dpkg says is installed is whole, and what it was about to do can be done."""
    with cut.mount() as disk:
        digests = f"{disk.path}/var/lib/dpkg/info/shop.md5sums"
        # Where a package was half unpacked this fails, and wants it to be installed again.
        disk.vm.run(dpkg(disk.path, "--configure", "--pending"), check=False)
        if "\nStatus: install ok installed" in disk.vm.run(dpkg(disk.path, "--status", "shop"), check=False).stdout:
            disk.vm.run(["md5sum", "-c", digests], cwd=disk.path)
        disk.vm.run(dpkg(disk.path, "--install", PACKAGE))
        disk.vm.run(["md5sum", "-c", digests], cwd=disk.path)


def test_recovers(install, cuts):
    install().verify(recovers, at="write", limit=cuts)


def test_eats_data(install):
    """Nothing is synced, as some have it where machines are made: dpkg is sure of files that are empty."""
    failed = install(LD_PRELOAD="libeatmydata.so").first_failing(recovers, minimise=0)
    assert failed
    assert "md5sum" in failed.why
