"""Fused reductions: many tensors, few messages.

Tensors are copied one after another into one buffer, scaled on the way; each piece of it is reduced as soon as it is
full, while it is still in the processor's cache. Offsets are multiples of 64 bytes, so that TensorFlow takes views of
the buffer as tensors without copying them. Buffers are used again when nobody holds a view any more.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clary_parallel.older_pythons import paired, pairwise
from clary_parallel.transport.base import Buffer, Transport

ALIGNMENT = 64
PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class Bucket:
    """Which tensors (by index) travel together, and their type."""

    kind: str
    indices: tuple[int, ...]


def plan(kinds: Sequence[str], sizes: Sequence[int], cap: int) -> list[Bucket]:
    """Share tensors among buckets of at most `cap` bytes, each of one type; a larger tensor is alone in its bucket.

    Gradients of the last layers are ready first, so buckets go from the last tensor to the first.

    Args:
        kinds: the type of each tensor.
        sizes: the bytes of each tensor.
        cap: the bytes of a bucket.
    """
    full: list[Bucket] = []
    open_buckets: dict[str, list[int]] = {}
    filled: dict[str, int] = {}
    for index in reversed(range(len(kinds))):
        kind = kinds[index]
        if open_buckets.get(kind) and filled[kind] + sizes[index] > cap:
            full.append(Bucket(kind, tuple(open_buckets.pop(kind))))
        if kind not in open_buckets:
            open_buckets[kind], filled[kind] = [], 0
        open_buckets[kind].append(index)
        filled[kind] += sizes[index]
    return full + [Bucket(kind, tuple(indices)) for kind, indices in open_buckets.items()]


class Pool:
    """Buffers that are lent as views and taken again when the last view is gone."""

    def __init__(self) -> None:
        self._memory: dict[int, list[Buffer]] = {}

    def take(self, kind: np.dtype[Any], count: int) -> Buffer:
        """A buffer of `count` elements, aligned, with any content."""
        size = count * kind.itemsize
        known = self._memory.setdefault(size, [])
        for memory in known:
            # Held by the list, by this loop and by getrefcount itself: no view holds it.
            if sys.getrefcount(memory) == 3:
                break
        else:
            memory = np.empty(size + ALIGNMENT, np.uint8)
            known.append(memory)
        start = -memory.ctypes.data % ALIGNMENT
        return memory[start : start + size].view(kind)


def allreduce_fused(
    transport: Transport, tensors: Sequence[Buffer], weight: float, pool: Pool, *, average: bool = True
) -> list[Buffer]:
    """Sum weight × tensor over the ranks; divide by the sum of the weights when averaging.

    Args:
        tensors: float32 or float64, all of one type; they are not changed.
        weight: this rank's weight, such as its number of samples. With equal weights the result is the mean.

    Returns:
        The results, views of one buffer of the pool, with the tensors' shapes.
    """
    kind = tensors[0].dtype
    step = ALIGNMENT // kind.itemsize
    offsets: list[int] = []
    end = 0
    for tensor in tensors:
        offsets.append(end)
        end += -(-tensor.size // step) * step
    buffer = pool.take(kind, end)
    # Scaled on the way into the buffer, so that each piece is written once and read once beside the sum itself.
    scale = kind.type(_part_of_all(transport, weight) if average else 1)
    piece = PIECE_BYTES // kind.itemsize
    done = 0
    for index, (tensor, offset) in enumerate(paired(tensors, offsets)):
        flat = tensor.reshape(-1)
        limit = offsets[index + 1] if index + 1 < len(offsets) else end
        buffer[offset + flat.size : limit] = 0
        for start in range(0, flat.size, piece):
            part = flat[start : start + piece]
            np.multiply(part, scale, out=buffer[offset + start : offset + start + part.size])
            ready = offset + start + part.size
            while ready - done >= piece:
                transport.allreduce(buffer[done : done + piece])
                done += piece
    while done < end:
        transport.allreduce(buffer[done : min(end, done + piece)])
        done += piece
    return [buffer[offset : offset + tensor.size].reshape(tensor.shape) for tensor, offset in paired(tensors, offsets)]


def allreduce_half(
    transport: Transport, tensors: Sequence[Buffer], weight: float, *, average: bool = True
) -> list[Buffer]:
    """`allreduce_fused` for 2-byte types (float16, bfloat16): half the bytes travel, sums are made in float32.

    Each rank sums one share of the elements, then everyone gets all the sums.
    """
    kind = tensors[0].dtype
    flat = np.concatenate([tensor.reshape(-1) for tensor in tensors])
    bounds = [flat.size * rank // transport.size for rank in range(transport.size + 1)]
    shares = [flat[low:high].view(np.uint16) for low, high in pairwise(bounds)]
    weights = transport.allgather_joined(np.array([weight], np.float32))
    received = transport.alltoall(shares)
    total = np.zeros(received[0].size, np.float32)
    for each, share in paired(weights, received):
        total += share.view(kind).astype(np.float32) * (each if average else 1)
    if average:
        total /= max(float(weights.sum()), np.finfo(np.float32).tiny)
    joined = transport.allgather_joined(total.astype(kind).view(np.uint16)).view(kind)
    ends = np.cumsum([tensor.size for tensor in tensors])
    return [joined[end - tensor.size : end].reshape(tensor.shape) for tensor, end in paired(tensors, ends)]


def _part_of_all(transport: Transport, weight: float) -> float:
    total = np.array([weight])
    transport.allreduce(total)
    return weight / max(float(total[0]), float(np.finfo(np.float64).tiny))
