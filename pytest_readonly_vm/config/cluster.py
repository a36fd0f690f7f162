"""Owns prepared states of several machines: functions that form a cluster once, for tests that start from there. Pure.

As a layer is of one machine, so is this of as many as the function asks for, and of the networks between them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from pytest_readonly_vm.config.prepared import Files, Prepared, home_of, located


@dataclass(frozen=True, slots=True)
class GuestCluster(Prepared):
    """A function that forms a cluster, with its arguments. Calling it gives the same with other arguments."""

    def form(self, new: object) -> object:
        """Form it, by what makes machines and networks; what the function returns."""
        return self.function(new, *self.args, **self.kwargs)

    @property
    def folder(self) -> Path:
        """That of the function's file."""
        return home_of(self.function)


@overload
def cluster(function: Callable[..., object]) -> GuestCluster: ...
@overload
def cluster(*, files: Files) -> Callable[[Callable[..., object]], GuestCluster]: ...
def cluster(
    function: Callable[..., object] | None = None, *, files: Files = ()
) -> GuestCluster | Callable[[Callable[..., object]], GuestCluster]:
    """Make a function that forms a cluster one that tests start from: ``@cluster`` above ``def etcd(new): …``.

    `new` makes what it takes: ``lan = new.network("lan")``, ``one = new.machine("one", networks=[lan], memory="1G")``;
    see `NewCluster`. What the function returns is passed over: all machines that it has made are the cluster.

    Tests ask for it by ``@pytest.mark.vm(cluster=etcd)``, or with arguments ``cluster=etcd(members=5)``, and get it by
    the fixture ``readonly_vm_cluster``. All its machines are frozen at one moment, with what is on its way between
    them, and go on from there together.

    It is formed anew when the function, what this names, its arguments, or what it pushes have changed. Other files
    that it depends on are said by ``@cluster(files=["etcd.conf"])``, relative to the file that the function is in.
    """

    def made(function: Callable[..., object]) -> GuestCluster:
        return GuestCluster(function, files=located(function, files))

    return made if function is None else made(function)
