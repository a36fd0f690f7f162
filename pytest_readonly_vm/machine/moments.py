"""Owns what ways through time have in common, those of one machine and those of several: checkpoints, and forks."""

import abc
from typing import Any, Generic, Protocol, Self, TypeVar

from pytest_readonly_vm.errors import VmError


class Closable(Protocol):
    """What forks need of a `VirtualMachine`, or a cluster of them."""

    def close(self) -> None: ...


class Rewound(Closable, Protocol):
    """What can go back to how it was, as a checkpoint needs it."""

    closed: bool
    checkpoints: Any

    def restore(self, checkpoint: Any = None) -> None: ...


class Returning(abc.ABC):
    """A state to go back to. A context that does so when it is left."""

    __slots__ = ()

    @property
    @abc.abstractmethod
    def of(self) -> Rewound:
        """What goes back."""

    @abc.abstractmethod
    def release(self) -> None:
        """Give its memory back."""

    @property
    def is_open(self) -> bool:
        """Whether it has not been closed."""
        return self in self.of.checkpoints

    def close(self) -> None:
        """Forget it, and give its memory back. A second call does nothing."""
        self.of.checkpoints.forget(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if not self.of.closed:
                self.of.restore(self)
        finally:
            self.close()


T = TypeVar("T", bound=Closable, covariant=True)
C = TypeVar("C", bound=Returning)


class OpenCheckpoints(Generic[C]):
    """Those of one thing that it can go back to, from the earliest on."""

    def __init__(self) -> None:
        self._open: list[C] = []

    def __contains__(self, checkpoint: object) -> bool:
        return checkpoint in self._open

    def add(self, checkpoint: C) -> C:
        self._open.append(checkpoint)
        return checkpoint

    def meant(self, checkpoint: C | None, *, of: str) -> C:
        """Which one is meant: the latest, if none is said.

        :param of: what the thing is called, for messages.
        :raises VmError: there is none, or it is closed, or of something else.
        """
        if checkpoint is None and not self._open:
            raise VmError(f"{of}: there is no checkpoint to go back to")
        found = self._open[-1] if checkpoint is None else checkpoint
        if found not in self._open:
            raise VmError(f"{of}: the checkpoint is closed, or of something else")
        return found

    def forget(self, checkpoint: C) -> None:
        """Give the memory of one back; a second call does nothing."""
        if checkpoint in self._open:
            self._open.remove(checkpoint)
            checkpoint.release()

    def forget_all(self) -> None:
        for checkpoint in tuple(self._open):
            self.forget(checkpoint)


class Forks(tuple[T, ...]):
    """The machines of one fork, or the clusters. A context that closes them all when it is left."""

    __slots__ = ()

    def close(self) -> None:
        for one in self:
            one.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
