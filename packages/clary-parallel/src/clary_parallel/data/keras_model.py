"""Two lines make a Keras 3 model train on many processes: `init()` and `model = data_parallel(model)`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from clary_parallel.data import world
from clary_parallel.data.compression import Compression, Compressor
from clary_parallel.data.fit_callbacks import FirstCallback, LastCallback, callbacks_here
from clary_parallel.data.gradients import GradientReducer
from clary_parallel.data.metrics import joined_results
from clary_parallel.data.optimizer import distribute
from clary_parallel.data.shards import (
    ArrayBatches,
    SharedBatches,
    as_array,
    is_arrays,
    picked,
    share_of,
    shared_dataset,
    shared_generator,
)
from clary_parallel.data.sharing import share
from clary_parallel.data.sync_batch_norm import synchronise
from clary_parallel.data.variables import average_variables
from clary_parallel.frameworks import keras, tf

DEFAULT_BATCH_SIZE = 32


def data_parallel(
    model: Any,
    *,
    compression: type[Compressor] = Compression.none,
    accumulate: int = 1,
    bucket_bytes: int | None = None,
    sparse_as_dense: bool = False,
    check_finite: bool = False,
    sync_batch_norm: bool = False,
    shard_optimizer: bool = False,
    shard: bool = True,
) -> Any:
    """Train, evaluate and predict a Keras 3 model on all ranks of the job; returns the same model.

    Call it before or after `compile`. Then use compile, fit, evaluate, predict, train_on_batch and test_on_batch as
    ever, on every rank: batch sizes are those of the joined batch (see `shards`), weights start from rank 0's, metrics
    are over all ranks' samples, and progress, checkpoints and TensorBoard files are rank 0's alone.

    Args:
        compression: what gradients are sent as (`Compression.fp16`, `.bf16`); default: as they are.
        accumulate: exchange and apply gradients once in so many batches.
        bucket_bytes: bytes of gradients exchanged together; default: see `gradients.default_bucket_bytes`.
        sparse_as_dense: send gradients of embeddings as dense tensors.
        check_finite: stop with the names of the layers when a gradient is NaN or infinite.
        sync_batch_norm: let BatchNormalization see the statistics of all ranks' samples, as one process would.
        shard_optimizer: let each rank keep its share of the optimizer's state (see `sharded_state`). Saved models then
            hold rank 0's share of it only.
        shard: False when the data given are this rank's own share already, not the same on all ranks.

    Example:
        model = clary_parallel.data_parallel(keras.applications.ResNet50(weights=None, classes=10))
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        model.fit(images, labels, batch_size=64, epochs=3)
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"data_parallel takes a model of Keras 3 (keras.Model). Received: {type(model).__name__}")
    if getattr(model, "_clary_parallel", None) is not None:
        raise ValueError("This model is data parallel already.")
    world.init()
    if sync_batch_norm:
        synchronise(model)
    parallel = _DataParallel(model, shard)
    reducer = GradientReducer(
        compression, bucket_bytes, sparse_as_dense, check_finite=check_finite, weight=lambda: parallel.weight
    )
    parallel.attach(lambda optimizer: distribute(optimizer, reducer, accumulate, share_state=shard_optimizer))
    return model


class _DataParallel:
    """Puts itself before some methods of one model."""

    def __init__(self, model: Any, shard: bool) -> None:
        self.model = model
        self.shard = shard
        self.weight: Any = None
        # From numpy's global generator, which keras.utils.set_random_seed sets: the orders of batches can be repeated.
        self.seed = world.transport().broadcast_object(int(np.random.randint(1 << 31)))

    def attach(self, distribute_optimizer: Callable[[Any], Any]) -> None:
        """Bind our methods to the model, over its own."""
        model = self.model
        self._original = {name: getattr(model, name) for name in _METHODS}
        self._distribute = distribute_optimizer
        for name in _METHODS:
            bound = functools.wraps(self._original[name])(functools.partial(getattr(self, name)))
            object.__setattr__(model, name, bound)
        object.__setattr__(model, "_clary_parallel", self)
        if model.compiled:
            self._take_over()

    def compile(self, *arguments: Any, **named: Any) -> None:
        if named.get("jit_compile") is True:
            raise ValueError(
                "jit_compile=True compiles the whole step with XLA, which cannot hold the exchange between ranks. "
                "Leave it out."
            )
        self._original["compile"](*arguments, **{**named, "jit_compile": False})
        self._take_over()

    def train_step(self, data: Any) -> Any:
        first = next(array for array in tf.nest.flatten(data) if array is not None)
        self.weight = tf.cast(tf.shape(first)[0], tf.float32)
        try:
            return self._original["train_step"](data)
        finally:
            self.weight = None

    def get_metrics_result(self) -> Any:
        results = self._original["get_metrics_result"]
        return joined_results(self.model.metrics, results) if tf.executing_eagerly() else results()

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: Any = "auto",
        callbacks: Any = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        class_weight: Any = None,
        sample_weight: Any = None,
        **named: Any,
    ) -> Any:
        if validation_split and validation_data is None:
            (x, y, sample_weight), validation_data = _split((x, y, sample_weight), validation_split)
        train = self._batches(x, y, sample_weight, batch_size, shuffle)
        if validation_data is not None:
            parts = [*validation_data] if isinstance(validation_data, (tuple, list)) else [validation_data]
            val_x, val_y, val_weight = [*parts, None, None][:3]
            size = named.pop("validation_batch_size", None) or batch_size
            named["validation_data"] = self._batches(val_x, val_y, val_weight, size, False)
        if not isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks = [FirstCallback(), *callbacks_here(callbacks, world.rank()), LastCallback()]
        self._build(train)
        with self._told():
            return self._original["fit"](
                train,
                epochs=epochs,
                verbose=verbose if world.rank() == 0 else 0,
                callbacks=callbacks,
                shuffle=False,  # Keras' order would be another on each rank: ours is in the batches.
                class_weight=class_weight,
                **named,
            )

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: Any = "auto",
        sample_weight: Any = None,
        steps: int | None = None,
        callbacks: Any = None,
        **named: Any,
    ) -> Any:
        average_variables(self.model.non_trainable_weights)
        inside_fit = named.get("_use_cached_eval_dataset", False)
        batches = x if inside_fit else self._batches(x, y, sample_weight, batch_size, False)
        if not isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks = callbacks_here(callbacks, world.rank())
        quiet = verbose if world.rank() == 0 else 0
        with self._told():
            return self._original["evaluate"](batches, verbose=quiet, steps=steps, callbacks=callbacks, **named)

    def predict(
        self,
        x: Any,
        batch_size: int | None = None,
        verbose: Any = "auto",
        steps: int | None = None,
        callbacks: Any = None,
    ) -> Any:
        """Arrays are shared among the ranks and everyone gets all predictions; other data every rank predicts."""
        original = self._original["predict"]
        here = {"verbose": verbose if world.rank() == 0 else 0, "callbacks": callbacks_here(callbacks, world.rank())}
        count = len(keras.tree.flatten(x)[0]) if is_arrays(x) else 0
        if not self.shard or world.size() == 1 or count < world.size() or steps is not None:
            return original(x, batch_size=batch_size, steps=steps, **here)
        mine = share(count, world.rank(), world.size())
        local = max(1, -(-(batch_size or DEFAULT_BATCH_SIZE) // world.size()))
        share_here = picked(keras.tree.map_structure(as_array, x), mine)
        predicted = original(share_here, batch_size=local, **here)

        def joined(array: Any) -> Any:
            return world.transport().allgather_joined(np.ascontiguousarray(array))

        return keras.tree.map_structure(joined, predicted)

    def train_on_batch(
        self, x: Any, y: Any = None, sample_weight: Any = None, class_weight: Any = None, return_dict: bool = False
    ) -> Any:
        x, y, sample_weight = self._share((x, y, sample_weight))
        with self._told():
            self._original["train_on_batch"](x, y, sample_weight, class_weight, return_dict=True)
            return self._metrics_now(return_dict)

    def test_on_batch(self, x: Any, y: Any = None, sample_weight: Any = None, return_dict: bool = False) -> Any:
        x, y, sample_weight = self._share((x, y, sample_weight))
        with self._told():
            self._original["test_on_batch"](x, y, sample_weight, return_dict=True)
            return self._metrics_now(return_dict)

    def _metrics_now(self, return_dict: bool) -> Any:
        results = {name: float(np.asarray(value)) for name, value in self.get_metrics_result().items()}
        return results if return_dict else list(results.values()) if len(results) > 1 else next(iter(results.values()))

    def _take_over(self) -> None:
        self.model.jit_compile = False
        self.model.train_function = None
        if getattr(self.model.optimizer, "_clary_reducer", None) is None:
            self._distribute(self.model.optimizer)

    def _share(self, batch: Any) -> Any:
        return share_of(batch, world.rank(), world.size()) if self.shard else batch

    def _batches(self, x: Any, y: Any, sample_weight: Any, batch_size: int | None, shuffle: bool) -> Any:
        """What Keras gets instead of the user's data: this rank's share of each batch."""
        rank, size = (world.rank(), world.size()) if self.shard else (0, 1)
        self.seed += 1
        if is_arrays(x):
            arrays = (x,) if y is None else (x, y) if sample_weight is None else (x, y, sample_weight)
            seed = self.seed if self.shard else self.seed + world.rank() * 1_000_003
            return ArrayBatches(arrays, batch_size or DEFAULT_BATCH_SIZE, rank, size, shuffle=bool(shuffle), seed=seed)
        if not self.shard or size == 1:
            return x
        if isinstance(x, tf.data.Dataset):
            return shared_dataset(x, rank, size)
        if isinstance(x, keras.utils.PyDataset):
            return SharedBatches(x, rank, size, shuffle=bool(shuffle), seed=self.seed)
        if isinstance(x, Iterator):
            return shared_generator(x, rank, size)
        raise TypeError(
            "data_parallel shares arrays, tf.data.Dataset, PyDataset and generators among ranks. "
            f"Received: {type(x).__name__}. Give each rank its own share, with data_parallel(model, shard=False)."
        )

    def _build(self, batches: Any) -> None:
        """Give model and optimizer their variables before training, so that rank 0's can be broadcast."""
        if not self.model.built:
            if isinstance(batches, Iterator):
                raise ValueError(
                    "A model trained from a generator must be built before fit: call model.build(input_shape), or "
                    "begin it with keras.Input."
                )
            first = batches[0] if isinstance(batches, keras.utils.PyDataset) else next(iter(batches))
            inputs = first[0] if isinstance(first, tuple) else first
            self.model(picked(inputs, slice(0, 1)))
        optimizer = self.model.optimizer
        if not optimizer.built:
            optimizer.build(self.model.trainable_variables)

    def _told(self) -> _Told:
        return _Told()


class _Told:
    """Raises what went wrong between ranks as itself, not wrapped in TensorFlow's report of a failed operation."""

    def __enter__(self) -> None: ...

    def __exit__(self, _kind: Any, error: BaseException | None, _trace: Any) -> None:
        failure, world.agreement().failure = world.agreement().failure, None
        if isinstance(error, tf.errors.OpError) and failure is not None:
            raise failure from None


_METHODS = (
    "compile",
    "fit",
    "evaluate",
    "predict",
    "train_on_batch",
    "test_on_batch",
    "train_step",
    "get_metrics_result",
)


def _split(data: tuple[Any, ...], fraction: float) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The first samples for training, the last `fraction` for validation, as Keras splits them."""
    if not is_arrays(data):
        raise ValueError("validation_split works with arrays only. Give validation_data instead.")
    count = len(next(array for array in keras.tree.flatten(data) if array is not None))
    at = int(count * (1 - fraction))
    if not 0 < at < count:
        raise ValueError(f"validation_split={fraction} leaves no samples for training or none for validation.")

    arrays = keras.tree.map_structure(as_array, data)
    return picked(arrays, slice(0, at)), picked(arrays, slice(at, count))
