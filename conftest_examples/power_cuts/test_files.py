"""What ext4 makes of files that were not synced."""

import pytest

SOMEBODY_ELSE = "echo >/data/other && sync /data/other"  # which takes along what has been done to names


@pytest.fixture
def save(readonly_vm, ext4):
    """A function that has a file replaced, as editors do, and gives what it recorded of the disk meanwhile."""

    def record(options="defaults", *, sync=False):
        disk = ext4(options)
        readonly_vm.run("echo old >/data/settings; sync")
        with disk.record() as log:
            readonly_vm.run("echo new >/data/settings.tmp")
            if sync:
                readonly_vm.run("sync /data/settings.tmp")
            readonly_vm.run("mv /data/settings.tmp /data/settings")
            readonly_vm.run(SOMEBODY_ELSE)
        return log

    return record


def settings(cut):
    with cut.mount() as disk:
        return disk.vm.read_text(f"{disk.path}/settings")


def is_old_or_new(cut):
    assert settings(cut) in ("old\n", "new\n")


def test_renamed(save):
    """By default ext4 writes a file's content before the file takes another's place, as so many programs need it."""
    save().verify(is_old_or_new)


def test_renamed_without_that(save):
    """Nothing else says that it must: the new file is there, and what was in it is not."""
    failed = save("noauto_da_alloc").first_failing(is_old_or_new, minimise=0)
    assert failed
    assert settings(failed.cut) == ""


def test_synced_and_renamed(save):
    """Who has a file synced before it is renamed needs no such favour."""
    save("noauto_da_alloc", sync=True).verify(is_old_or_new)


@pytest.fixture
def reuse(readonly_vm, ext4):
    """A function that has the room of a deleted file become another's, and gives what it recorded meanwhile."""

    def record(options):
        disk = ext4(options)
        readonly_vm.run("yes secret | head -c 1000000 >/data/diary; sync; rm /data/diary; sync")
        with disk.record() as log:
            readonly_vm.run("yes public | head -c 1000000 >/data/report")
            readonly_vm.run(SOMEBODY_ELSE)
        return log

    return record


def tells_no_secret(cut):
    with cut.mount() as disk:
        return not disk.vm.run(["grep", "-q", "secret", f"{disk.path}/report"], check=False).ok


def test_content_before_its_file(reuse):
    reuse("nodelalloc,data=ordered").verify(tells_no_secret)


def test_file_before_its_content(reuse):
    """What somebody has deleted is in a file of somebody else's."""
    assert reuse("nodelalloc,data=writeback").first_failing(tells_no_secret, minimise=0)
