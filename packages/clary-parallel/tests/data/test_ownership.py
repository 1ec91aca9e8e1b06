"""Every variable has one owner, and ranks own about as much."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from clary_parallel.data.ownership import owners


@given(st.lists(st.integers(0, 1000), max_size=40), st.integers(1, 8))
def test_ranks_own_about_as_much(sizes: list[int], ranks: int) -> None:
    chosen = owners(sizes, ranks)
    loads = [sum(size for size, owner in zip(sizes, chosen, strict=True) if owner == rank) for rank in range(ranks)]
    assert sum(loads) == sum(sizes)
    assert max(loads) - min(loads) <= max(sizes, default=0)


def test_the_largest_go_first_and_to_the_rank_that_has_least() -> None:
    assert owners([5, 5, 1, 1, 4], 2) == [0, 1, 1, 1, 0]
