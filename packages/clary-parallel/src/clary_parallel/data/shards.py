"""Sharing batches among ranks.

The batch that the user asks for is the joined one: `fit(x, y, batch_size=64)` on two ranks trains with 32 samples on
each, and has the result that one process has with 64. A batch that the ranks cannot share evenly is shared as evenly
as can be; gradients are weighted by samples, so the result is still the same. When a batch has fewer samples than
there are ranks, the ranks left over repeat its first sample, because every rank must make the step.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from clary_parallel.data.sharing import share
from clary_parallel.frameworks import keras, tf


class ArrayBatches(keras.utils.PyDataset):
    """This rank's share of each batch of some arrays.

    Args:
        arrays: a structure of arrays with one length, as Keras takes it: (x,), (x, y) or (x, y, sample_weight).
        batch_size: samples of a batch, over all ranks.
        shuffle: whether each epoch has an order of its own, the same on all ranks.
        seed: what the orders come from; the same on all ranks.
    """

    def __init__(
        self, arrays: Any, batch_size: int, rank: int, size: int, *, shuffle: bool = False, seed: int = 0
    ) -> None:
        super().__init__()
        self._arrays = keras.tree.map_structure(as_array, arrays)
        lengths = {len(array) for array in keras.tree.flatten(self._arrays) if array is not None}
        if len(lengths) != 1:
            raise ValueError(f"All arrays must have the same number of samples. Received: {sorted(lengths)}")
        (self._count,) = lengths
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more. Received: {batch_size}")
        self._batch_size = batch_size
        self._rank, self._size = rank, size
        self._random = np.random.default_rng(seed) if shuffle else None
        self._order = self._random.permutation(self._count) if self._random is not None else None

    def __len__(self) -> int:
        return -(-self._count // self._batch_size)

    def __getitem__(self, index: int) -> Any:
        start = index * self._batch_size
        mine = share(min(self._batch_size, self._count - start), self._rank, self._size)
        low, high = start + mine.start, start + mine.stop
        chosen = slice(low, high) if self._order is None else self._order[low:high]
        return picked(self._arrays, chosen)

    def on_epoch_end(self) -> None:
        if self._random is not None:
            self._order = self._random.permutation(self._count)


class SharedBatches(keras.utils.PyDataset):
    """This rank's share of each batch of the user's PyDataset, in an order that is the same on all ranks."""

    def __init__(self, whole: Any, rank: int, size: int, *, shuffle: bool = False, seed: int = 0) -> None:
        super().__init__(
            workers=whole.workers, use_multiprocessing=whole.use_multiprocessing, max_queue_size=whole.max_queue_size
        )
        self._whole = whole
        self._rank, self._size = rank, size
        self._random = np.random.default_rng(seed) if shuffle and whole.num_batches is not None else None
        self._order = self._new_order()

    @property
    def num_batches(self) -> int | None:
        return self._whole.num_batches

    def __getitem__(self, index: int) -> Any:
        chosen = index if self._order is None else int(self._order[index])
        return share_of(self._whole[chosen], self._rank, self._size)

    def on_epoch_begin(self) -> None:
        self._whole.on_epoch_begin()

    def on_epoch_end(self) -> None:
        self._whole.on_epoch_end()
        self._order = self._new_order()

    def _new_order(self) -> Any:
        return None if self._random is None else self._random.permutation(self._whole.num_batches)


def shared_dataset(dataset: Any, rank: int, size: int) -> Any:
    """This rank's share of each batch of a tf.data.Dataset."""

    def mine(*batch: Any) -> Any:
        count = tf.shape(tf.nest.flatten(batch)[0])[0]
        base, extra = count // size, count % size
        low = rank * base + tf.minimum(rank, extra)
        high = low + base + tf.cast(rank < extra, tf.int32)
        low, high = tf.cond(high > low, lambda: (low, high), lambda: (tf.constant(0), tf.constant(1)))
        shared = picked(batch, slice(low, high))
        return shared if len(shared) > 1 else shared[0]

    return dataset.map(mine, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(2)


def shared_generator(batches: Iterator[Any], rank: int, size: int) -> Iterator[Any]:
    """This rank's share of each batch of a generator."""
    for batch in batches:
        yield share_of(batch, rank, size)


def share_of(batch: Any, rank: int, size: int) -> Any:
    """This rank's share of a batch: a structure of arrays or tensors with one length."""
    first = next(array for array in keras.tree.flatten(batch) if array is not None)
    mine = share(len(first), rank, size)
    return picked(batch, mine)


def picked(arrays: Any, index: Any) -> Any:
    """A structure of arrays with an index applied to each; None stays None."""

    def pick(array: Any) -> Any:
        return None if array is None else array[index]

    return keras.tree.map_structure(pick, arrays)


def is_arrays(data: Any) -> bool:
    """Whether data are arrays (or a structure of them) and not something that makes batches itself."""
    if isinstance(data, (tf.data.Dataset, keras.utils.PyDataset)):
        return False
    return all(leaf is None or hasattr(leaf, "__len__") for leaf in keras.tree.flatten(data))


def as_array(data: Any) -> Any:
    """An array that can be indexed by an array: tensors and data frames become numpy arrays."""
    return None if data is None else np.asarray(data)
