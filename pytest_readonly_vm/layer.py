"""Owns prepared states of a guest: functions that change a machine once, for all tests that start from there. Pure.

As with the layers of a container image, a layer is made upon what is below it, kept, and made anew when its text or its
arguments change.
"""

import hashlib
import inspect
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_readonly_vm.machine.vm import VirtualMachine


@dataclass(frozen=True, slots=True)
class GuestLayer:
    """A function of a machine with its arguments. Calling it gives the same with other arguments."""

    function: "Callable[..., object]"
    args: tuple[Any, ...] = field(default=(), hash=False)
    kwargs: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __call__(self, *args: Any, **kwargs: Any) -> "GuestLayer":
        return GuestLayer(self.function, args, kwargs)

    def __str__(self) -> str:
        given = [*map(repr, self.args), *(f"{name}={value!r}" for name, value in self.kwargs.items())]
        return f"{self.function.__name__}({', '.join(given)})" if given else self.function.__name__

    def apply(self, vm: "VirtualMachine") -> None:
        """Bring a machine into the state."""
        self.function(vm, *self.args, **self.kwargs)

    def key(self) -> str:
        """A text that changes when the function's own lines, the variables around it or the arguments do.

        It stays the same when what the function calls changes.
        """
        named = {**inspect.getclosurevars(self.function).nonlocals, **self.kwargs}
        texts = [code_of(self.function), *map(code_of, self.args)]
        texts += [f"{name}={code_of(value)}" for name, value in sorted(named.items())]
        return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def layer(function: "Callable[..., object]") -> GuestLayer:
    """Make a function of a machine a layer: ``@layer`` above ``def nginx(vm): vm.run("apt-get install -y nginx")``.

    Tests ask for it by ``@pytest.mark.vm(layers=nginx)``, for several, each upon the one before, by a list, and
    with arguments by ``layers=[updated, with_package("nginx")]``.
    """
    return GuestLayer(function)


def code_of(thing: object) -> str:
    """What a thing of the user's is or does, as text that changes when that does.

    Of what has neither a text of its own nor code to be seen, the text is another in every process.
    """
    text = repr(thing)
    if not inspect.isroutine(thing) and not re.search(r" at 0x[0-9a-f]+", text):
        return f"{type(thing).__qualname__} {text}"
    try:
        code = inspect.getsource(thing if inspect.isroutine(thing) else type(thing))
    except (OSError, TypeError):
        return f"{os.getpid()} {text}"
    return f"{getattr(thing, '__qualname__', '')} {code}"
