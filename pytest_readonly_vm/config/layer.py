"""Owns prepared states of a guest: functions that change a machine once, for all tests that start from there. Pure.

As with the layers of a container image, a layer is made upon what is below it, kept, and made anew when its text, what
this text names, or its arguments change.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import overload

from pytest_readonly_vm.config.prepared import Files, Prepared, located


@dataclass(frozen=True, slots=True)
class GuestLayer(Prepared):
    """A function of a machine with its arguments. Calling it gives the same with other arguments."""

    def apply(self, vm: object) -> None:
        """Bring a machine into the state."""
        self.function(vm, *self.args, **self.kwargs)


@overload
def layer(function: Callable[..., object]) -> GuestLayer: ...
@overload
def layer(*, files: Files) -> Callable[[Callable[..., object]], GuestLayer]: ...
def layer(
    function: Callable[..., object] | None = None, *, files: Files = ()
) -> GuestLayer | Callable[[Callable[..., object]], GuestLayer]:
    """Make a function of a machine a layer: ``@layer`` above ``def nginx(vm): vm.run("apt-get install -y nginx")``.

    Tests ask for it by ``@pytest.mark.vm(layers=nginx)``, for several, each upon the one before, by a list, and
    with arguments by ``layers=[updated, with_package("nginx")]``.

    It is made anew when what it pushes has changed. Other files that it depends on are said by
    ``@layer(files=["app.conf", "templates"])``: files and folders, relative to the file that the function is in.
    """

    def made(function: Callable[..., object]) -> GuestLayer:
        return GuestLayer(function, files=located(function, files))

    return made if function is None else made(function)
