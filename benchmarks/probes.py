"""Owns the probes: functions of the package timed from outside, by wrapping them for as long as a measurement lasts."""

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from benchmarks.stopwatch import Stopwatch


class Probe(NamedTuple):
    """A function by its owner (a module or class) and name, and the label under which its time is added up."""

    owner: object
    name: str
    label: str | Callable[..., str]
    """A text, or a function of the call's arguments."""


@contextmanager
def applied(probes: Sequence[Probe], stopwatch: Stopwatch) -> Iterator[None]:
    """Time the functions, coroutine functions from call to result, into `stopwatch`."""
    with ExitStack() as undo:
        for probe in probes:
            original = inspect.getattr_static(probe.owner, probe.name)
            setattr(probe.owner, probe.name, _timed(original, probe, stopwatch))
            undo.callback(setattr, probe.owner, probe.name, original)
        yield


def _timed(function: Callable[..., Any], probe: Probe, stopwatch: Stopwatch) -> Callable[..., Any]:
    def label(*args: object, **named: object) -> str:
        return probe.label if isinstance(probe.label, str) else probe.label(*args, **named)

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def timed_coroutine(*args: object, **named: object) -> object:
            with stopwatch.timing(label(*args, **named)):
                return await function(*args, **named)

        return timed_coroutine

    @functools.wraps(function)
    def timed(*args: object, **named: object) -> object:
        with stopwatch.timing(label(*args, **named)):
            return function(*args, **named)

    return timed
