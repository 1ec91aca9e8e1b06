"""Which rank updates which variable, where the optimizer's state is shared: pure arithmetic."""

from __future__ import annotations

from collections.abc import Sequence


def owners(sizes: Sequence[int], ranks: int) -> list[int]:
    """The owner of each variable: the largest first, each to the rank that has least so far."""
    loads = [0] * ranks
    chosen = [0] * len(sizes)
    for index in sorted(range(len(sizes)), key=lambda index: (-sizes[index], index)):
        chosen[index] = loads.index(min(loads))
        loads[chosen[index]] += sizes[index]
    return chosen
