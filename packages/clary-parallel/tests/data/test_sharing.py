"""The ranks' shares of a batch are the batch."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clary_parallel.data.sharing import share


@given(st.integers(1, 500), st.integers(1, 20))
def test_shares_follow_one_another_and_differ_by_one_at_most(count: int, size: int) -> None:
    samples = list(range(count))
    shares = [samples[share(count, rank, size)] for rank in range(size)]
    if count >= size:
        assert [sample for part in shares for sample in part] == samples
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
    else:
        assert shares == [[sample] for sample in samples] + [[0]] * (size - count)


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one sample or more. Received: 0"):
        share(0, 0, 2)
