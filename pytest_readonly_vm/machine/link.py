"""Owns the cable between a machine's card and a private network: pulled, and put in again."""

from collections.abc import Callable

from pytest_readonly_vm.channels.history import HistoryEntry
from pytest_readonly_vm.errors import GuestDied, NetworkError
from pytest_readonly_vm.host.loop import LoopThread
from pytest_readonly_vm.machine.member import Machine
from pytest_readonly_vm.machine.undoable import Undoable
from pytest_readonly_vm.qemu.card import Card, set_carrier


class Link:
    """The cable of a machine's card. The guest sees its carrier go and come, as it does not with a fault."""

    def __init__(
        self,
        machine: Machine,
        card: Card,
        loop: LoopThread,
        begin: Callable[[], HistoryEntry],
        on_pull: Callable[["PulledCable"], object],
    ) -> None:
        """`begin` makes the entry of the network's history, when the cable is pulled, and `on_pull` hears of it."""
        self._machine = machine
        self._card = card
        self._loop = loop
        self._begin = begin
        self._on_pull = on_pull
        self._instance = machine.instance
        """The one of which it was pulled."""
        self._pulled: PulledCable | None = None

    @property
    def is_up(self) -> bool:
        """Whether the cable is in, as it is in a machine that has been made anew, by `reset`, `restore` or `fork`."""
        return self._pulled is None or not self._pulled.is_on or self._instance is not self._machine.instance

    def down(self) -> "PulledCable":
        """Pull the cable: until the context ends that this gives, or `up` is called, or the test is over.

        :raises NetworkError: it is pulled already.
        :raises GuestDied: QEMU has ended.
        """
        if not self.is_up:
            raise NetworkError(f"{self._machine.name}: the cable of its card {self._card.mac} is pulled already")
        self._carry(up=False)
        self._instance = self._machine.instance
        self._pulled = PulledCable(self, self._begin())
        self._on_pull(self._pulled)
        return self._pulled

    def up(self) -> None:
        """Put the cable in again; if it is in, nothing is done.

        :raises GuestDied: QEMU has ended.
        """
        if self._pulled is not None:
            self._pulled.end()

    def put_in(self) -> None:
        """Put it in again, unless nobody misses it: its machine has ended or was made anew, or the card was taken out.

        :raises VmError: QEMU does not.
        """
        machine, number = self._instance, self._card.number
        if machine is self._machine.instance and any(card.number == number for card in machine.cards):
            try:
                self._carry(up=True)
            except GuestDied:
                if machine.process.returncode is None:
                    raise

    def _carry(self, *, up: bool) -> None:
        self._loop.run(set_carrier(self._machine.instance.qmp, self._card, up=up))


class PulledCable(Undoable):
    """A cable that is pulled until the context ends."""

    def __init__(self, link: Link, entry: HistoryEntry) -> None:
        super().__init__(entry)
        self._link = link

    def _off(self) -> None:
        self._link.put_in()

    def look(self) -> None:
        pass

    def _check(self) -> None:
        pass
