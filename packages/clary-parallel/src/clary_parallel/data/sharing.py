"""Which samples of a batch are a rank's: pure arithmetic."""

from __future__ import annotations


def share(count: int, rank: int, size: int) -> slice:
    """A rank's samples of a batch of `count`: contiguous, in the order of ranks, sizes one apart at most.

    With fewer samples than ranks, the ranks left over get the first sample.
    """
    if count < 1:
        raise ValueError(f"A batch must have one sample or more. Received: {count}")
    base, extra = divmod(count, size)
    start = rank * base + min(rank, extra)
    stop = start + base + (1 if rank < extra else 0)
    return slice(start, stop) if stop > start else slice(0, 1)
