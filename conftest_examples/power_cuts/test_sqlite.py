"""SQLite: which of its modes keep what they have acknowledged, over every flush of the disk.

It is as https://www.sqlite.org/pragma.html#pragma_synchronous says.
"""

import pytest

# A server would not close its database after each order, by which what is in a WAL goes to the database.
OPEN = ("sqlite3", "/data/shop.db", ".dbconfig no_ckpt_on_close on")


@pytest.fixture
def take(readonly_vm, ext4, orders):
    """A function that has orders taken, each in a transaction, and gives what it recorded of the disk meanwhile."""

    def record(synchronous, journal):
        disk = ext4()
        readonly_vm.run([*OPEN, f"PRAGMA journal_mode={journal}; CREATE TABLE orders (number)"])
        readonly_vm.run("sync")
        with disk.record() as log:
            for number in orders:
                readonly_vm.run([*OPEN, f"PRAGMA synchronous={synchronous}; INSERT INTO orders VALUES ({number})"])
                log.mark(str(number))  # from now on the customer relies on it
        return log

    return record


def lost(cut):
    """The orders that had been acknowledged when power went, and are not there after it."""
    with cut.mount() as disk:
        found = disk.vm.run(["sqlite3", f"{disk.path}/shop.db", "SELECT number FROM orders"]).stdout.split()
    return [number for number in cut.acknowledged if number not in found]


@pytest.mark.parametrize(("synchronous", "journal"), [("extra", "delete"), ("full", "wal")])
def test_keeps_every_order(take, synchronous, journal):
    take(synchronous, journal).verify(lambda cut: not lost(cut))


@pytest.mark.parametrize(("synchronous", "journal"), [("off", "delete"), ("normal", "wal")])
def test_loses_every_order(take, orders, synchronous, journal):
    *_, last = take(synchronous, journal).cuts()
    assert lost(last) == [str(number) for number in orders]


def test_loses_the_last_order(take):
    """Its end is that the journal is deleted; the folder of that is not synced, so it may be there again."""
    losses = [(lost(cut), cut.acknowledged) for cut in take("full", "delete").cuts()]
    assert all(found in ([], [*acknowledged[-1:]]) for found, acknowledged in losses)
    assert any(found for found, acknowledged in losses)
