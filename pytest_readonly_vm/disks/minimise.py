"""Owns the search for the smallest part of something that still has an effect: delta debugging. Pure.

See A. Zeller and R. Hildebrandt, "Simplifying and Isolating Failure-Inducing Input" (2002), the algorithm ddmin.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def minimised(items: Sequence[T], has_effect: Callable[[Sequence[T]], bool], *, most: int) -> list[T]:
    """A part of what has the effect, from which no item can be taken without it being lost, if there was time for that.

    :param has_effect: whether a part has it; the whole is taken to have it. Parts keep their order.
    :param most: how often it is asked at most.
    """
    found, parts = list(items), 2
    asked = 0

    def has(part: Sequence[T]) -> bool:
        nonlocal asked
        asked += 1
        return has_effect(part)

    if not found or most < 1:
        return found
    if has([]):
        return []
    while len(found) > 1:
        size = -(-len(found) // parts)
        slices = [found[begin : begin + size] for begin in range(0, len(found), size)]
        for number, one in enumerate(slices):
            rest = [item for other, part in enumerate(slices) if other != number for item in part]
            tries = [(one, 2)]
            if len(slices) > 2:  # of two, the rest is the other one
                tries.append((rest, max(parts - 1, 2)))
            for part, following in tries:
                if asked >= most:
                    return found
                if has(part):
                    found, parts = part, following
                    break
            else:
                continue
            break
        else:
            if parts >= len(found):
                break
            parts = min(2 * parts, len(found))
    return found
